"""Feedback from scored samples: which pairs, which label, and training reads it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import LabelRun
from nemo_bt.data.formats.responses import Chat
from nemo_bt.errors import UserError
from nemo_bt.evaluation.label import Sample, check_label, chosen_pairs, label, threshold_of
from nemo_bt.observability.terminal import Terminal
from nemo_bt.scoring.rows import reader_of
from tests.support.preferences import messages
from tests.support.sources import open_set, write

REWARDS = {"a": [0.0, 1.0, 4.0, 9.0], "b": [2.0, 2.0], "c": [5.0], "d": [1.0, 1.5, 3.0]}
SAMPLES = [Sample(prompt, reward, 0, None) for prompt, rewards in REWARDS.items() for reward in rewards]


def gaps(mode: str, min_margin: float, seed: int = 1) -> list[tuple[str, float]]:
    pairs = list(chosen_pairs(SAMPLES, mode, min_margin, random.Random(seed)))
    assert all(a.prompt == b.prompt for a, b in pairs)
    return [(a.prompt, abs(a.reward - b.reward)) for a, b in pairs]


def test_max_takes_the_best_and_the_worst_and_min_the_two_that_differ_least() -> None:
    assert gaps("max", 0.0) == [("a", 9.0), ("d", 2.0)]
    assert gaps("max", 3.0) == [("a", 9.0)]
    assert gaps("min", 0.0) == [("a", 1.0), ("d", 0.5)]
    assert gaps("min", 1.2) == [("a", 3.0), ("d", 1.5)]
    assert gaps("min", 9.5) == []


def test_random_has_each_sample_in_one_pair_at_most() -> None:
    seen = set()
    for seed in range(20):
        pairs = list(chosen_pairs(SAMPLES, "random", 0.0, random.Random(seed)))
        rewards = [sample.reward for pair in pairs for sample in pair if sample.prompt == "a"]
        assert len(rewards) == 4 == len(set(rewards))
        assert [pair[0].prompt for pair in pairs] == ["a", "a", "d"]
        seen.add(tuple(rewards))
    assert len(seen) > 5
    assert all(gap >= 2 for _, gap in gaps("random", 2.0))


def test_thresholds() -> None:
    assert [threshold_of([1.0, 2.0, 6.0], wanted) for wanted in ("mean", "median", 2.5)] == [3.0, 2.0, 2.5]


def labelled(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """Feedback from rows that are scored already."""
    tmp_path.mkdir(exist_ok=True)
    output = tmp_path / "feedback.jsonl"
    given = [f"{'model.data' if name == 'system_key' else 'label'}.{name}={value}" for name, value in options.items()]
    run = load_settings_of(LabelRun, "label", ["label.input=unused", f"label.output={output}", *given])
    Path(run.score.output).write_text("".join(json.dumps(row) + "\n" for row in rows))
    label(run, Terminal(None))
    return [json.loads(line) for line in output.read_text().splitlines()]


SINGLE = [
    {"prompt": "Tea?", "response": text, "reward": reward}
    for text, reward in (("Yes, très bien.", 2.0), ("No.", -1.0), ("Hm.", None))
]
LISTS = [{"prompt_id": 7, "prompt": "Tea?", "completions": ["Yes.", "No.", "Hm."], "reward": [2.0, -1.0, 0.5]}]


def test_pairs_are_what_training_reads(tmp_path: Path) -> None:
    (row,) = labelled(tmp_path, SINGLE)
    assert row["reward_difference"] == 3.0
    assert row["label"] == (row["output_A"] == "Yes, très bien.")
    reader = reader_of("rows", [row], SourceSettings(path="rows.jsonl"), True, "reward")
    assert reader.sides(row) == [[Chat(messages("Tea?", "Yes, très bien."))], [Chat(messages("Tea?", "No."))]]


def test_ranked_feedback_has_all_answers_of_a_prompt_the_best_first(tmp_path: Path, tokenizer: Any) -> None:
    rows = [*LISTS, {"prompt": "Milk?", "completions": ["No."], "reward": [1.0]}]
    (row,) = labelled(tmp_path, rows, feedback="ranked")
    assert (row["completions"], row["scores"], row["prompt_id"]) == (["Yes.", "Hm.", "No."], [2.0, 0.5, -1.0], 7)
    lists = open_set(write(tmp_path / "ranked.jsonl", [row]), tokenizer, "model.loss.kind=plackett_luce")
    (group,) = lists.groups([0])
    assert group.comparisons[0].scores == (2.0, 0.5, -1.0)
    (single,) = labelled(tmp_path / "again", SINGLE, feedback="ranked")
    assert single["completions"] == ["Yes, très bien.", "No."]


def test_which_comes_first_is_drawn(tmp_path: Path) -> None:
    rows = [row | {"prompt": f"{row['prompt']} {number}"} for number in range(40) for row in SINGLE]
    labels = [row["label"] for row in labelled(tmp_path, rows)]
    assert len(labels) == 40
    assert 8 < sum(labels) < 32


def test_lists_of_completions_are_samples_too(tmp_path: Path) -> None:
    (row,) = labelled(tmp_path, LISTS, pairs="max")
    assert (row["prompt_id"], {row["output_A"], row["output_B"]}) == (7, {"Yes.", "No."})


def test_binary_and_scalar_feedback(tmp_path: Path) -> None:
    binary = labelled(tmp_path, LISTS, feedback="binary", threshold="median")
    assert [(row["output"], row["label"], row["type"]) for row in binary] == [
        ("Yes.", 1, "binary_feedback"),
        ("No.", 0, "binary_feedback"),
        ("Hm.", 1, "binary_feedback"),
    ]
    scalar = labelled(tmp_path, SINGLE, feedback="scalar")
    assert [(row["output"], row["reward"], row["type"]) for row in scalar] == [
        ("Yes, très bien.", 2.0, "scalar_feedback"),
        ("No.", -1.0, "scalar_feedback"),
    ]


def test_no_feedback_is_an_error_and_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairwise feedback comes out of 2 samples"):
        labelled(tmp_path, SINGLE, min_margin=5)
    assert [path.name for path in tmp_path.iterdir()] == ["feedback.jsonl.scored.jsonl"]


def test_only_answers_to_the_same_prompt_are_pairs(tmp_path: Path) -> None:
    """Numbers of prompts may be null, or begin anew in each file; a system message is part of the prompt."""
    rows = [
        {
            "prompt_id": name,
            "prompt": prompt,
            "system": system,
            "response": f"{prompt} {system} {reward}",
            "reward": reward,
        }
        for name, prompt, system in (
            (None, "a", "x"),
            (None, "b", "x"),
            (0, "c", "x"),
            (0, "d", "x"),
            (1, "e", "kind"),
            (1, "e", "rude"),
        )
        for reward in (1.0, 2.0)
    ]
    assert len(labelled(tmp_path, rows[:8])) == 4
    (tmp_path / "feedback.jsonl").unlink()
    found = labelled(tmp_path, rows, system_key="system")
    assert len(found) == 6
    for row in found:
        assert row["output_A"].rsplit(" ", 1)[0] == row["output_B"].rsplit(" ", 1)[0]
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]


def test_completions_with_fields_and_rows_without_a_prompt(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"response": "no prompt", "reward": None},
        {"prompt": "Tea?", "completions": [{"response": "Yes.", "m": 1}, {"response": "No."}], "reward": [2.0, -1.0]},
    ]
    (row,) = labelled(tmp_path, rows)
    assert {row["output_A"], row["output_B"]} == {"Yes.", "No."}


def test_prompts_are_found_where_the_rows_have_them(tmp_path: Path) -> None:
    """NeMo-RL's context, a system message before messages, and tools; answers of two prompts make no pair."""
    answers = [{"completion": messages("", text)[1:], "rank": rank} for rank, text in enumerate(("Yes.", "No."))]
    rows = [
        {"context": messages(asked, "")[:1], "completions": answers, "reward": [reward, None]}
        for asked, reward in (("Tea?", 1.0), ("Milk?", 2.0), ("Tea?", 3.0))
    ]
    (row,) = labelled(tmp_path, rows)
    assert (row["prompt"], row["reward_difference"]) == (messages("Tea?", "")[:1], 2.0)
    (tmp_path / "feedback.jsonl").unlink()
    tools = [{"type": "function", "function": {"name": "kettle"}}]
    rows = [{"prompt": messages("Tea?", "")[:1], "system": "Be kind.", "tools": tools, "response": f"{n}", "reward": n}
            for n in (1.0, 2.0)]  # fmt: skip
    (row,) = labelled(tmp_path, rows, system_key="system")
    assert row["prompt"] == [{"role": "system", "content": "Be kind."}, *messages("Tea?", "")[:1]]
    assert row["tools"] == tools
    own = [{"role": "system", "content": "Be kind."}, *messages("Tea?", "")[:1]]
    (tmp_path / "feedback.jsonl").unlink()
    (again,) = labelled(tmp_path, [one | {"prompt": own} for one in rows], system_key="system")
    assert again["prompt"] == own
    reader = reader_of("rows", [row], SourceSettings(path="rows.jsonl"), True, "reward")
    (side,), _ = reader.sides(row)
    assert side == Chat([*row["prompt"], {"role": "assistant", "content": "2.0"}], tools)
    (tmp_path / "feedback.jsonl").unlink()
    with pytest.raises(UserError, match=r"a scored row has no 'prompt', .* Label files of other columns apart"):
        labelled(tmp_path, [*SINGLE, {"question": "Tea?", "response": "Yes.", "reward": 1.0}])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("label.feedback=good", "label.feedback: expected one of pairwise, ranked, binary, scalar"),
        ("label.pairs=all", "label.pairs: expected"),
        ("label.threshold=most", "label.threshold: expected mean, median or a number, got most"),
        ("label.output=out.csv", "label.output: expected a name that ends in .jsonl"),
        ("label.min_margin=-1", "label.min_margin: expected 0 or more"),
    ],
)
def test_a_mistake_in_the_settings_is_named(override: str, message: str) -> None:
    given = ["model.restore_from_path=x", "label.input=in.jsonl", "label.output=out.jsonl", override]
    with pytest.raises(UserError, match=message):
        check_label(load_settings_of(LabelRun, "label", given).label)

"""What data becomes for each loss: lists, ties, soft labels, scores, attributes; and what cannot feed a loss."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bt.config.equations import check_equations
from nemo_bt.config.load import load_settings
from nemo_bt.data.inspect import lengths_of, show, stats
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from tests.support.data_rows import ROWS
from tests.support.preferences import messages
from tests.support.sources import dropped, open_set, settings_with, write

LISTS = "model.loss.kind=plackett_luce"
ANSWERS = "model.loss.kind=regression"
HELPSTEER = "[helpfulness,verbosity]"


def ranked(number: int, scores: list[Any], texts: list[str] | None = None, **more: Any) -> dict[str, Any]:
    texts = texts or [f"answer {i}" for i in range(len(scores))]
    return {"prompt": f"q{number}", "completions": texts, "scores": scores} | more


def compared(pairs: PairSet, tokenizer: Any) -> list[list[tuple[str, float]]]:
    """The answers of each comparison with their scores, as text."""
    found = []
    for number in range(len(pairs.epoch)):
        (group,) = pairs.groups([number])
        (one,) = group.comparisons
        texts = [tokenizer.decode([*group.prefix, *group.continuations[side]]) for side in one.sides]
        found.append(
            [
                (text.split("assistant: ")[-1].removesuffix("<|end|>"), s)
                for text, s in zip(texts, one.scores, strict=True)
            ]
        )
    return found


def test_a_list_has_all_answers_of_a_prompt_the_best_first(tmp_path: Path, tokenizer: Any) -> None:
    rows = [ranked(0, [1, 3, 2]), ranked(1, [2, 2]), ranked(2, [5]), ranked(3, [1, 1, 4, 0], ["a", "b", "a", "c"])]
    lists = open_set(write(tmp_path / "lists.jsonl", rows), tokenizer, LISTS, "model.data.max_bad_fraction=0")
    answers = [[("answer 1", 3), ("answer 2", 2), ("answer 0", 1)], [("a", 4), ("b", 1), ("c", 0)]]
    assert compared(lists, tokenizer) == answers
    assert dropped(lists) == {"tie": 1, "single": 1, "same": 1}
    assert lists.accounts[0].describe("train").startswith("train: 2 of 5 lists; dropped 1 with no second response")
    parts = lists.parts([0, 1])
    assert parts.start_PK.shape == (2, 3)
    assert [(row >= 0).sum() for row in parts.start_PK] == [3, 3]


def test_rows_that_follow_each_other_are_one_list(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "q", "response": f"answer {i}", "score": score} for i, score in enumerate((1, 3, 2))]
    lists = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, LISTS)
    assert compared(lists, tokenizer) == [[("answer 1", 3), ("answer 2", 2), ("answer 0", 1)]]


def test_pairs_that_rows_name_are_lists_of_two(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "q", "chosen": "good", "rejected": "bad"}]
    (answers,) = compared(open_set(write(tmp_path / "p.jsonl", rows), tokenizer, LISTS), tokenizer)
    assert [text for text, _ in answers] == ["good", "bad"]
    assert all(math.isnan(score) for _, score in answers)


ARENA = [
    {"conversation_a": messages("q", "left"), "conversation_b": messages("q", "right"), "winner": winner}
    for winner in ("model_a", "model_b", "tie", "tie (bothbad)")
]


@pytest.mark.parametrize("kind", ["davidson", "rao_kupper"])
def test_ties_are_kept_where_the_loss_has_them(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    file = write(tmp_path / "arena.jsonl", ARENA)
    pairs = open_set(file, tokenizer, f"model.loss.kind={kind}")
    assert [pairs.groups([i])[0].comparisons[0].preference for i in range(4)] == [1, 1, 0.5, 0.5]
    assert dropped(pairs) == {}
    assert dropped(open_set(file, tokenizer)) == {"tie": 2}
    kept = open_set(file, tokenizer, pairs={"keep_ties": True})
    assert kept.column("preference", range(4)).tolist() == [1, 1, 0.5, 0.5]


def test_a_column_of_probabilities_is_a_soft_label(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "q", "chosen": f"good {p}", "rejected": "bad", "p": p} for p in (1, 0.75, 0)]
    pairs = open_set(write(tmp_path / "soft.jsonl", rows), tokenizer, preference_key="p")
    assert pairs.column("preference", range(3)).tolist() == [1, 0.75, 0]
    for wrong in (1.5, -0.1, "x", None):
        bad = write(tmp_path / "bad.jsonl", [rows[0] | {"p": wrong}])
        with pytest.raises(UserError, match=r"bad\.jsonl row 0: ('p' is|no 'p')"):
            open_set(bad, tokenizer, preference_key="p")


def test_attributes_come_with_each_answer(tmp_path: Path, tokenizer: Any) -> None:
    head = f"model.reward_head.attributes={HELPSTEER}"
    answers = open_set(write(tmp_path / "h.jsonl", ROWS["helpsteer"]), tokenizer, ANSWERS, head)
    (first, *_) = (answers.groups([i])[0].comparisons[0] for i in range(len(answers.epoch)))
    rows = [row for row in ROWS["helpsteer"] if row["prompt"] == ROWS["helpsteer"][0]["prompt"]]
    expected = sorted(((row["helpfulness"], row["verbosity"]) for row in rows), key=lambda both: -sum(both))
    assert sorted(first.attributes) == sorted(expected)
    assert list(first.scores) == [pytest.approx(sum(both) / 2) for both in expected]

    rows = [{"prompt": "q", "completions": [
        {"response": "a", "annotations": {"helpfulness": {"Rating": "4"}}},
        {"response": "c", "annotations": {"helpfulness": {"Rating": "N/A"}, "verbosity": {"Rating": "1"}}},
        {"response": "b", "annotations": {"helpfulness": {"Rating": "2"}, "verbosity": {"Rating": "1"}}},
    ]}]  # fmt: skip
    keys = {name: f"annotations.{name}.Rating" for name in ("helpfulness", "verbosity")}
    nested = open_set(write(tmp_path / "u.jsonl", rows), tokenizer, ANSWERS, head, attribute_keys=keys)
    (one,) = nested.groups([0])[0].comparisons
    assert one.scores == (4.0, 1.5, 1.0)
    assert np.array_equal(one.attributes, [[4.0, math.nan], [2.0, 1.0], [math.nan, 1.0]], equal_nan=True)


FEW = [ranked(i, [1.0, 0.0], helpfulness=[3, 4]) for i in range(3)]
NAMED = [{"prompt": "q", "chosen": "good", "rejected": "bad", "margin": 4}]


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        (NAMED, [ANSWERS], r"2 of 2 answers of rows have no score, .* Set model\.data\.score_key"),
        (NAMED, ["model.loss.regression_coefficient=1"], "have no score"),
        ([ranked(0, [2.0, 0.0])], [ANSWERS, "model.loss.regression_error=bce"], r"got score 2 in .* row 0 \(1 in all"),
        (NAMED, ["model.loss.scale={1: 1, 2: 3}"], r"got 1, 2 and found 4 \(.*row 0; 1 pairs in all\)\. Add it"),
        (FEW, [ANSWERS, "model.reward_head.attributes=[helpfulness,humour]"],
         r"no answer of rows has 'humour'\. Set model\.data\.attribute_keys\.humour"),
        ([ranked(0, [1])], [LISTS], r"0 of 1 lists; dropped 1 with no second response\. .* yields nothing"),
        ([ranked(0, ["x", "y"])], [LISTS], r"'scores' is 'x', expected a number"),
        ([ranked(0, [1, 2, 3], ["a", "b"])], [LISTS], r"has 3 values for 2 completions"),
    ],
)  # fmt: skip
def test_what_cannot_feed_a_loss_is_refused(
    tmp_path: Path, tokenizer: Any, rows: list[Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([LISTS, "model.loss.margin=true"], r"loss\.margin: model\.loss\.kind=plackett_luce does not read it, bradley"),
        (["model.loss.tie=2"], r"loss\.tie: .*bradley_terry does not read it, rao_kupper or davidson does"),
        ([ANSWERS, "model.loss.regression_coefficient=1"], r"regression_coefficient: .* a ranking loss does"),
        (["model.loss.regression_error=bce"], r"regression_error: .* regression does"),
        ([LISTS, "model.data.pairs.mode=all_pairs"], r"data\.pairs\.mode: model\.loss\.kind=plackett_luce does not"),
        (["model.loss.kind=hinge", "model.data.pairs.keep_ties=true"], r"pairs\.keep_ties: model\.loss\.kind=hinge"),
        (["model.loss.kind=davidson", "model.data.preference_key=p"], r"preference_key: model\.loss\.kind=davidson"),
        (["model.loss.kind=hinge", "model.loss.margin=true", "model.loss.hinge_margin=2"], "both are the lead"),
        (["model.reward_head.attributes=[a]"], r"bradley_terry trains no attribute\. Set model\.loss\.kind=regression"),
    ],
)
def test_what_a_loss_does_not_read_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_equations(load_settings("train", ["model=llama_4x256", "model.data.train=a.parquet", *overrides]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.reward_head={attributes: [a, a]}", "expected names, each once"),
        ("model.reward_head={attributes: [a, b], weights: [1]}", "expected one for each of 2 attributes"),
        ("model.reward_head={attributes: [a], weights: [0]}", "expected one other than 0"),
        ("model.loss.scale={x: 1}", "expected numbers for strengths"),
        ("model.loss.scale={}", "or a map with a factor for each strength"),
        ("model.loss.scale={1: -1}", "expected a factor of 0 or more for each strength"),
        ("model.loss.kind=bt", "expected one of bradley_terry, hinge, rao_kupper"),
    ],
)
def test_settings_that_mean_nothing_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings("train", [override])


def test_missing_attributes_and_ties_are_counted(tmp_path: Path, tokenizer: Any, capsys: Any) -> None:
    rows = [ranked(0, [1.0, 0.0], helpfulness=[3, None]), ranked(1, [1.0, 0.0], helpfulness=[3, 2])]
    head = "model.reward_head.attributes=[helpfulness]"
    told: list[str] = []
    terminal = Terminal(None)
    terminal.line = told.append  # type: ignore[method-assign]
    from nemo_bt.data.store.signal import check_signal

    settings = settings_with(ANSWERS, head)
    (part,) = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, ANSWERS, head).sources
    check_signal("train", part, settings, terminal)
    assert told == ["train: 1 of 4 answers of rows have no helpfulness; the loss leaves it out there"]
    told.clear()
    check_signal("train", part, settings_with("model.loss.kind=davidson"), terminal)
    assert told == ["train: rows has no ties, for which model.loss.kind=davidson is made"]


def test_lists_are_shown_and_measured(tmp_path: Path, tokenizer: Any) -> None:
    lists = open_set(write(tmp_path / "rows.jsonl", [ranked(0, [1, 3, 2]), ranked(1, [1, 0])]), tokenizer, LISTS)
    lengths = lengths_of(lists)
    assert list(lengths) == ["shared prefix", "a response", "pair in a stream"]
    assert len(lengths["a response"]) == 5
    shown: list[str] = []
    terminal = Terminal(None)
    terminal.line = shown.append  # type: ignore[method-assign]
    show({"train": lists}, tokenizer, 1, terminal)
    assert any(line.startswith("response 1 of 3, score 3, ") for line in shown)
    stats({"train": lists}, settings_with(LISTS), None, terminal)
    assert any("shared prefixes save" in line for line in shown)

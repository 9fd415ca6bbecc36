"""Files of results as the programs of RewardBench and RewardBench 2 write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import EvaluateRun
from nemo_bt.errors import UserError
from nemo_bt.evaluation.accuracy import Scored
from nemo_bt.evaluation.command import evaluate
from nemo_bt.evaluation.leaderboard import _name, write_leaderboard
from nemo_bt.evaluation.measure import measure
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.resolve import find_pretrained
from tests.support.hf_models import save


def written(rows: list[dict[str, Any]], model: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate rows that are scored, and read both files."""
    folder.mkdir()
    (folder / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = load_settings_of(EvaluateRun, "evaluate", ["evaluate.input=a.jsonl", f"evaluate.output={folder}"])
    pretrained = find_pretrained(str(model))
    write_leaderboard(run, pretrained, evaluate(run, str(model), Terminal(None)), Terminal(None))
    results, rows_of = (
        json.loads((folder / kind / "small.json").read_text()) for kind in ("eval-set", "eval-set-scores")
    )
    return results, rows_of


def four(subset: str, name: str, rewards: list[float], num_correct: int = 1) -> dict[str, Any]:
    answers = [f"{name}: {n}." for n in range(len(rewards))]
    row = {"id": name, "prompt": "Tea?", "subset": subset, "num_correct": num_correct}
    row |= {"chosen": answers[:num_correct], "rejected": answers[num_correct:]}
    return row | {"reward_chosen": rewards[:num_correct], "reward_rejected": rewards[num_correct:]}


def test_rewardbench_2(tmp_path: Path, tokenizer: Any) -> None:
    model = save("qwen3", tmp_path / "small", tokenizer=tokenizer)
    rows = [four("Math", "1", [3.0, 1.0, 2.0, 0.0]), four("Math", "2", [1.0, 1.0, 0.0, 0.0])]
    rows += [four("Ties", "ref:0", [1.0, 0.0]), four("Ties", "tied:0", [2.0, 1.5, 0.0], 2)]
    bad = four("Math", "3", [3.0, 1.0, 2.0, 0.0]) | {"reward_chosen": [None]}
    results, by_row = written([*rows, bad], model, tmp_path / "out")
    told = {"model": "small", "model_type": "Seq. Classifier", "chat_template": "tokenizer"}
    assert {name: results.pop(name) for name in told} == told
    assert results == {"Math": 0.75, "Ties": pytest.approx(1.0, abs=0.02)}
    assert {name: by_row.pop(name) for name in told} == told
    texts = by_row.pop("text")
    assert by_row == {
        "id": ["1", "2", "ref:0", "tied:0"],
        "subset": ["Math", "Math", "Ties", "Ties"],
        "scores": [
            [[r] for r in rs] for rs in ([3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0], [2.0, 1.5, 0.0])
        ],
        "results": [1.0, 0.5, 1.0, 1.0],
        "num_correct": [1, 1, 1, 2],
    }
    turns = [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "tied:0: 2."}]
    assert texts[3][2] == tokenizer.apply_chat_template(turns, tokenize=False)
    assert [len(one) for one in texts] == [4, 4, 2, 3]


def test_rewardbench(tmp_path: Path, tokenizer: Any) -> None:
    model = save("qwen3", tmp_path / "small", tokenizer=tokenizer)
    row = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No.", "reward_rejected": 1.0}
    rows = [
        row | {"id": n, "subset": subset, "reward_chosen": reward}
        for n, (subset, reward) in enumerate((("hep-go", 2.0), ("hep-go", 1.0), ("math-prm", 0.0)))
    ]
    results, by_row = written(rows, model, tmp_path / "out")
    assert (results["hep-go"], results["math-prm"]) == (0.5, 0.0)
    assert (by_row["results"], by_row["id"]) == ([1, 0, 0], [0, 1, 2])
    assert (by_row["scores_chosen"], by_row["scores_rejected"]) == ([2.0, 1.0, 0.0], [1.0] * 3)
    assert [one.count("Yes.") for one in by_row["text_chosen"]] == [1] * 3
    pairs = [{name: value for name, value in one.items() if name != "subset"} for one in rows]
    with pytest.raises(FileNotFoundError):
        written(pairs, model, tmp_path / "pairs")


def test_several_languages_have_no_such_files_and_a_hubs_commit_is_no_name(tmp_path: Path, tokenizer: Any) -> None:
    model = save("qwen3", tmp_path / "small", tokenizer=tokenizer)
    row = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No.", "reward_chosen": 1.0, "reward_rejected": 0.0}
    with pytest.raises(FileNotFoundError):
        written([row | {"source": "hep-go", "language": "deu_Latn"}], model, tmp_path / "languages")
    assert (_name("org/rm@0a1b2c"), _name("org/rm"), _name(str(model))) == ("org/rm", "org/rm", "small")


def test_a_kind_that_rows_are_not_of_is_refused_before_files_are_written() -> None:
    pair, several = Scored([1.0], [0.0], {}), Scored([1.0, 2.0], [0.0], {"subset": "hep-go"})
    with pytest.raises(UserError, match=r"evaluate.kind=rewardbench2: expected .*a list of right .* got 1 right and 1"):
        measure([pair], "rewardbench2")
    with pytest.raises(UserError, match=r"evaluate.kind=rewardbench: expected .*one of each, got 2 right and 1 wrong"):
        measure([several], "rewardbench")

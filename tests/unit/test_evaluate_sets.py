"""What nemo-bt evaluate makes of one input, and of several sets."""

import json
from pathlib import Path

import pytest

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import EvaluateRun
from nemo_bt.errors import UserError
from nemo_bt.evaluation.accuracy import Scored
from nemo_bt.evaluation.command import evaluate
from nemo_bt.evaluation.kind import kind_of
from nemo_bt.evaluation.measure import measure
from nemo_bt.observability.terminal import Terminal


def runs_of(*typed: str) -> EvaluateRun:
    return load_settings_of(EvaluateRun, "evaluate", [*typed, "evaluate.output=out"])


def test_several_sets_are_runs_of_their_own() -> None:
    typed = ["evaluate.input.mine=[a.jsonl,b.jsonl]", "evaluate.input.rb2.path=allenai/reward-bench-2"]
    typed += ["evaluate.input.rb2.split=test", "evaluate.input.rb2.kind=rewardbench2", "evaluate.subset=all"]
    runs = runs_of(*typed).one_by_one()
    assert list(runs) == ["mine", "rb2"]
    mine, rb2 = runs.values()
    assert (mine.score.input, mine.score.split, mine.evaluate.kind) == (["a.jsonl", "b.jsonl"], "train", "auto")
    assert (rb2.score.split, rb2.score.subset, rb2.evaluate.kind) == ("test", "all", "rewardbench2")
    assert (rb2.score.output, rb2.evaluate.output) == ("out/rb2/scored.jsonl", "out/rb2")
    section = runs_of("evaluate.input={path: a, split: test}")
    assert section.one_by_one() == {"": section}
    assert (section.score.input, section.score.split, section.evaluate.split) == (["a"], "test", "test")
    alone = load_settings_of(
        EvaluateRun, "evaluate", ["evaluate.input=a", "evaluate.split=test", "evaluate.output=out"]
    )
    assert alone.one_by_one() == {"": alone}
    assert (alone.score.split, alone.score.output) == ("test", "out/scored.jsonl")


def test_a_set_may_say_how_its_own_rows_are_read() -> None:
    typed = ["evaluate.input.a={path: a.jsonl, prompt_key: question, join: ' '}", "evaluate.input.b=b.jsonl"]
    runs = runs_of(*typed, "model.data.system_key=system", "model.data.ignore_columns=[x]").one_by_one()
    read = {name: (one.source.prompt_key, one.source.join, one.source.system_key) for name, one in runs.items()}
    assert read == {"a": ("question", " ", "system"), "b": ("prompt", None, "system")}
    assert runs["a"].source.ignore_columns == runs["b"].model.data.ignore_columns == ["x"]
    alone = runs_of("evaluate.input={path: a, prompt_key: question}", "model.data.system_key=system")
    assert (alone.source.prompt_key, alone.source.system_key, alone.evaluate.input) == ("question", "system", ["a"])
    with pytest.raises(UserError, match=r"^model\.data\.answers_hold_prompt: [^\n]*$"):
        runs_of(*typed, "model.data.answers_hold_prompt=x")


def test_every_right_answer_is_paired_with_every_wrong_one() -> None:
    rows = [Scored([2.0, 0.0], [1.0, 3.0], {"subset": "a"}, ([9, 2], [4, 4])), Scored([1.0], [0.0], {"subset": "b"})]
    results = measure(rows, "pairs")
    assert (results["overall"]["pairs"], results["score"], results["longer_wins"]) == (5, 2 / 5, 2 / 5)
    assert {name: one["pairs"] for name, one in results["by_subset"].items()} == {"a": 4, "b": 1}


def test_rows_that_are_half_a_benchmarks_are_refused() -> None:
    rows = [Scored([1.0], [0.0], {"subset": name}) for name in ("hep-go", "math-prm", "chat")]
    with pytest.raises(UserError, match=r"2 values of subset are RewardBench's, chat is not\. .* evaluate\.kind=pairs"):
        kind_of(rows)
    assert kind_of(rows[:2]) == "rewardbench"
    assert kind_of(rows[2:]) == "pairs"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "{a: {pth: x}, b: {path: y, kind: rb}}",
            "evaluate.input.a.path: expected a value, got none. Give evaluate.input.a.path=...\n"
            "unknown key evaluate.input.a.pth. Did you mean evaluate.input.a.path?\n"
            "evaluate.input.b.kind: expected auto, pairs, rewardbench, rewardbench2, rm_bench, judgebench, rmb, "
            "best_of_n, rewardmath or null, got rb.",
        ),
        (
            "{a: [], b: 3}",
            "evaluate.input.a.path: expected at least one value, got [].\n"
            "evaluate.input.b: expected a section of keys, got 3.",
        ),
    ],
)
def test_mistakes_inside_a_set_are_told_by_its_keys(given: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        runs_of(f"evaluate.input={given}")
    assert str(refused.value) == told


def test_where_most_rows_have_no_reward_nothing_is_measured(tmp_path: Path) -> None:
    good = {"chosen": "aaaa", "rejected": "b", "reward_chosen": 1.0, "reward_rejected": 0.0}
    bad = good | {"reward_chosen": None, "reward_rejected": None}
    scored = tmp_path / "out" / "scored.jsonl"
    scored.parent.mkdir()
    run = load_settings_of(EvaluateRun, "evaluate", ["evaluate.input=a.jsonl", f"evaluate.output={scored.parent}"])
    for rows, is_measured in (([good, bad], True), ([good, bad, bad], False)):
        scored.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if is_measured:
            assert evaluate(run, "m", Terminal(None))["rows_without_reward"] == 1
        else:
            with pytest.raises(UserError, match=r"2 of 3 rows have no reward, .* set how rows are read"):
                evaluate(run, "m", Terminal(None))

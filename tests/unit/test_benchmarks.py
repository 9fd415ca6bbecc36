"""JudgeBench, RMB, M-RewardBench and best-of-n equal their definitions, on rewards that are known."""

import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import EvaluateRun
from nemo_bt.data.formats.responses import response_of
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError
from nemo_bt.evaluation import rewardbench
from nemo_bt.evaluation.accuracy import Scored
from nemo_bt.evaluation.best_of_n import best_of_n, expected_label, label_key_of, labelled
from nemo_bt.evaluation.command import evaluate
from nemo_bt.evaluation.kind import kind_of
from nemo_bt.evaluation.measure import measure, scored_rows
from nemo_bt.evaluation.tables import leaderboard_row, tables_of
from nemo_bt.observability.terminal import Terminal
from nemo_bt.scoring.rows import reader_of
from tests.support.results import results_of


def judged(source: str, rewards: tuple[float, float], is_first: bool) -> dict[str, Any]:
    better, worse = rewards
    label, answers = ("A>B", ("good", "bad")) if is_first else ("B>A", ("bad", "good"))
    row = {"question": "q", "response_A": answers[0], "response_B": answers[1], "label": label, "source": source}
    return row | {"reward_chosen": better, "reward_rejected": worse}


def test_judgebench_has_both_averages() -> None:
    """Asked in both orders, as its script does, a tie is right once and wrong once: it counts as wrong."""
    rewards = {"mmlu-pro-law": [(1.0, 0.0)] * 3, "livebench-math": [(0.0, 0.0), (2.0, 1.0)], "livecodebench": [(0, 1)]}
    rows = [judged(source, pair, i % 2 == 0) for source, pairs in rewards.items() for i, pair in enumerate(pairs)]
    found = results_of(rows)
    assert (found["kind"], found["score"]) == ("judgebench", pytest.approx(4 / 6))
    assert found["sections"] == {"mmlu-pro": 1.0, "livebench-math": 0.5, "livecodebench": 0.0}
    assert found["averages"] == {"micro": pytest.approx(4 / 6), "macro": pytest.approx(0.5)}
    assert ("average", "score") in [columns for columns, _ in tables_of(found | {"model": "m"})]
    with pytest.raises(UserError, match=r"expected a source that begins with mmlu-pro, .* got arena"):
        measure([Scored([1.0], [0.0], {"source": "arena"})], "judgebench")


def rmb(path: str, chosen: float, rejected: Sequence[float]) -> dict[str, Any]:
    asked = {"conversation_input": [{"role": "user", "content": "q"}], "category_path": path}
    rewards = {"reward_chosen": [chosen], "reward_rejected": list(rejected)}
    if path.startswith("Pairwise"):
        return asked | {"chosen": {"answer": "good"}, "reject": {"answer": "bad"}} | rewards
    others = [{"llm_name": "m", "answer": f"bad {n}"} for n in range(len(rejected))]
    row = {"bon_best": {"answer": "good"}, "loser_list": others}
    return asked | row | rewards


def test_rmb_asks_for_the_best_of_all() -> None:
    paths = ("BoN_set/Helpfulness/Chat/Discussion", "BoN_set/Harmlessness/S1")
    draw = random.Random(1)
    rows = [rmb(draw.choice(paths), 2.0, [float(draw.randrange(4)) for _ in range(draw.randint(1, 5))])
            for _ in range(60)]  # fmt: skip
    found = results_of(rows)
    expected = {}
    for goal, path in zip(("Helpfulness", "Harmlessness"), paths, strict=True):
        own = [row["reward_rejected"] for row in rows if row["category_path"] == path]
        expected[f"{goal} BoN_set"] = np.mean([max(rewards) < 2 for rewards in own])
    assert (found["kind"], found["sections"]) == ("rmb", pytest.approx(expected))
    assert found["score"] == pytest.approx(np.mean(list(expected.values())))
    pairs = results_of([rmb("Pairwise_set/Harmlessness/multi", 1.0, [reward]) for reward in (0.0, 1.0, 2.0, 0.5)])
    assert (pairs["kind"], pairs["sections"]) == ("rmb", {"Harmlessness Pairwise_set": 0.5})
    assert leaderboard_row(pairs) == {"score": "50.0", "Harmlessness Pairwise_set": "50.0"}
    with pytest.raises(UserError, match="category_path that begins with BoN_set or Pairwise_set, got x"):
        measure([Scored([1.0], [0.0], {"category_path": "x"})], "rmb")


@pytest.mark.parametrize("seen", [2, 1])
@pytest.mark.parametrize("turn", [1, -1])
def test_rmb_of_both_kinds_in_one_file_is_read_row_by_row(turn: int, seen: int) -> None:
    """Also where the rows that tell the format are of one kind alone, in either order."""
    paths = ("Pairwise_set/Helpfulness/Chat", "BoN_set/Helpfulness/Chat")
    rows = [rmb(paths[0], 1.0, [0.0]), rmb(paths[1], 1.0, [0.0, 2.0])][::turn]
    reader = reader_of("rows", [*rows[:seen]], SourceSettings(path="rows.jsonl"), True, "reward")
    found, without = scored_rows(rows, reader)
    assert (without, kind_of(found), sorted(len(row.lengths[1]) for row in found)) == (0, "rmb", [1, 2])
    expected = {"Helpfulness BoN_set": 0.0, "Helpfulness Pairwise_set": 1.0}
    assert measure(found, "rmb")["sections"] == expected
    neither = {"conversation_input": [{"role": "user", "content": "q"}], "category_path": paths[0]}
    for row, what in ((neither, r"no '(chosen|bon_best)'"), (rmb(paths[1], 1.0, []), "'loser_list' is empty")):
        with pytest.raises(RowError, match=what):
            reader.sides(row)


def rows_in_english() -> list[dict[str, Any]]:
    rewards = {"reward_chosen": 1.0, "reward_rejected": 0.0}
    return [
        {"prompt": "p", "chosen": "c", "rejected": "r", "subset": subset} | rewards for subset in rewardbench.SUBSETS
    ]


def test_languages_have_a_score_each_and_their_mean() -> None:
    """M-RewardBench's own weights: of Chat Hard 76 of 407 prompts are llmbar-natural, in English 100 of 456."""
    rows = [
        {"prompt": "p", "chosen": "c", "rejected": "r", "source": subset, "language": language}
        | {"reward_chosen": 1.0, "reward_rejected": 0.0 if subset != wrong else 2.0}
        for language, wrong in (("deu_Latn", ""), ("zho_Hans", "llmbar-natural"))
        for subset in sorted(rewardbench.SUBSETS)
    ]
    found = results_of(rows)
    assert found["kind"] == "rewardbench"
    hard = 1 - 76 / (35 + 76 + 124 + 87 + 42 + 43)
    assert found["languages"] == {"deu_Latn": 1.0, "zho_Hans": pytest.approx((3 + hard) / 4)}
    assert found["score"] == pytest.approx((1 + (3 + hard) / 4) / 2)
    assert found["sections"]["Chat Hard"] == pytest.approx((1 + hard) / 2)
    assert found["missing_subsets"] == []
    some = [row | ({"language": "go"} if row["subset"] == "hep-go" else {}) for row in rows_in_english()]
    assert "languages" not in results_of(some)
    assert results_of(rows[:-1])["missing_subsets"] == [f"zho_Hans {rows[-1]['source']}"]


@pytest.mark.parametrize(
    ("names", "whose"),
    [
        ([{"source": "mmlu-pro-law"}, {"source": "mine"}], "source are JudgeBench's, mine is not"),
        ([{"category_path": "BoN_set/Helpfulness/Chat"}, {}], "category_path are RMB's, none is not"),
    ],
)
def test_rows_that_are_half_a_benchmarks_are_refused(names: list[dict[str, str]], whose: str) -> None:
    with pytest.raises(UserError, match=rf"1 values of {whose}\. .* evaluate\.kind=pairs"):
        kind_of([Scored([1.0], [0.0], of) for of in names])


def test_the_best_of_n_is_the_mean_over_all_draws() -> None:
    draw = random.Random(2)
    for _ in range(50):
        keys = [float(draw.randrange(4)) for _ in range(draw.randint(1, 6))]
        labels = [float(draw.randrange(2)) for _ in keys]
        for n in range(1, len(keys) + 1):
            means = []
            for drawn in combinations(range(len(keys)), n):
                highest = max(keys[i] for i in drawn)
                means.append(np.mean([labels[i] for i in drawn if keys[i] == highest]))
            assert expected_label(keys, labels, n) == pytest.approx(np.mean(means), abs=1e-12)
    assert expected_label([1, 2, 3], [1, 0, 1], 2) == pytest.approx(2 / 3)


PPE = {"prompt": "2 + 2?", "model_name": "m", "scores": [True, False, False, True], "question_id": 1} | {
    f"response_{n}": text for n, text in enumerate(("4", "5", "6", "four"), start=1)
}


def read(rows: list[dict[str, Any]], key: str | None = None) -> dict[str, Any]:
    reader = reader_of("rows", rows, SourceSettings(path="rows.jsonl"), True, "reward")
    settings = SourceSettings(path="rows.jsonl")
    key = label_key_of(rows, reader, settings, key)
    groups, without = labelled(rows, reader, settings, key)
    return best_of_n(groups, key) | {"without": without, "kind": reader.kind}


def test_labelled_answers_come_in_lists_in_columns_and_in_rows_of_their_own() -> None:
    """Rewards 1, 3, 2, 0 with labels 1, 0, 0, 1: alone a half is right, of two a sixth, and of four none."""
    expected = {"1": 0.5, "2": 1 / 6, "4": 0.0}
    rewards = [1.0, 3.0, 2.0, 0.0]
    lists = [{"prompt": "2 + 2?", "completions": ["4", "5", "6", "four"], "correct": [1, 0, 0, 1], "reward": rewards}]
    fields = [{"response": text, "correct": good} for text, good in (("4", 1), ("5", 0), ("6", 0), ("four", 1))]
    nested = [{"prompt": "2 + 2?", "completions": fields, "reward": rewards}]
    single = [one | {"prompt": "2 + 2?", "reward": reward} for one, reward in zip(fields, rewards, strict=True)]
    for rows in (lists, nested, single, [PPE | {"reward": rewards}]):
        found = read(rows)
        assert {n: of["mean"] for n, of in found["curve"].items()} == pytest.approx(expected)
        assert [of["best"] for of in found["curve"].values()] == pytest.approx([0.5, 5 / 6, 1.0])
        assert (found["score"], found["prompts"]) == (0.0, 1)
        assert (found["overall"]["accuracy"], found["overall"]["pairs"]) == (0.0, 4)
    pairs = read([PPE | {"reward": [1.0, 0.0, 2.0, 3.0], "sampled_conflict_pairs": [[0, 1], [2, 0]]}])["overall"]
    assert (pairs["accuracy"], pairs["pairs"]) == (0.5, 2)
    asked = [{"role": "user", "content": "2 + 2?"}]
    assert read([nested[0] | {"prompt": asked}])["score"] == 0.0  # its messages are no completions
    short = read([*lists, {**lists[0], "completions": ["4"], "correct": [1], "reward": [1.0]}, *lists])
    assert {n: of["prompts"] for n, of in short["curve"].items()} == {"1": 3, "2": 2, "4": 2}
    assert read(lists)["curve"]["1"]["low"] is None
    both = read([*lists, {**lists[0], "reward": [3.0, 0.0, 1.0, 2.0]}, {**lists[0], "reward": None}])
    assert (both["prompts"], both["without"], both["score"]) == (2, 1, 0.5)
    columns = [columns for columns, _ in tables_of(both | {"model": "m"})]
    assert columns[0] == ("best of n", "prompts", "label", "95 % interval", "best possible", "at random")


def solutions(problem: int, right: float, wrong: Sequence[float]) -> list[dict[str, Any]]:
    asked = {"problem": f"{problem} + 1?", "problem_id": problem, "answer": "1"}
    kinds = ["chosen", *["rejected"] * len(wrong)]
    return [
        asked | {"eval_solution": ["First.", f"Then {n}."], "solution_type": kind, "reward": reward}
        for n, (kind, reward) in enumerate(zip(kinds, (right, *wrong), strict=True))
    ]


def test_rewardmath_wants_the_right_solution_before_all_wrong_ones(tmp_path: Path) -> None:
    """Places of the right one: 1, 3 behind a tie, 2 behind one that is better, 1 again."""
    given = [(3.0, [1.0, 2.0]), (2.0, [3.0, 2.0, 1.0]), (0.0, [1.0, -1.0]), (5.0, [4.0])]
    rows = [row for n, (right, wrong) in enumerate(given) for row in solutions(n, right, wrong)]
    found = evaluated(rows[:-1] + solutions(3, 5.0, [5.0])[1:], tmp_path)
    averages = {"accuracy": 1 / 4, "accuracy_with_ties": 2 / 4, "mrr": (1 + 1 / 3 + 1 / 2 + 1 / 2) / 4}
    assert (found["kind"], found["averages"], found["score"]) == ("rewardmath", pytest.approx(averages), 1 / 4)
    assert (found["prompts"], found["labels"], found["curve"]["1"]["prompts"]) == (4, "solution_type", 4)
    reader = reader_of("rows", rows, SourceSettings(path="rows.jsonl"), True, "reward")
    (side,) = reader.sides(rows[0])[0]
    assert response_of(side) == "First.\nThen 0."
    unscored = solutions(7, 1.0, [0.0, 2.0])
    unscored[2]["reward"] = None  # the only one that is better
    partly = evaluated([*rows[:3], *unscored, *solutions(8, 1.0, [])], tmp_path)
    assert (partly["averages"]["accuracy"], partly["problems_left_out"]) == (1.0, 2)
    with pytest.raises(UserError, match="no problem has a solution that is chosen and one that is rejected"):
        evaluated(solutions(7, 1.0, []), tmp_path)
    labels = [row | {"solution_type": row["solution_type"] == "chosen"} for row in rows]
    assert evaluated([*map(as_response, labels)], tmp_path, "solution_type")["averages"]["mrr"] > 0.5


def as_response(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["problem"], "response": row["eval_solution"][1]} | {
        name: row[name] for name in ("solution_type", "reward")
    }


def evaluated(rows: list[dict[str, Any]], folder: Path, label_key: str | None = None) -> dict[str, Any]:
    """What nemo-bt evaluate makes of rows that are scored."""
    given = ["evaluate.input=a.jsonl", f"evaluate.output={folder}"] + (
        [f"evaluate.label_key={label_key}"] * bool(label_key)
    )
    (folder / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return evaluate(load_settings_of(EvaluateRun, "evaluate", given), "m", Terminal(None))


@pytest.mark.parametrize(
    ("row", "key", "message"),
    [
        ({"completions": ["a", "b"]}, None, r"called correct, is_correct, .*, found completions, prompt\. Set"),
        ({"completions": ["a", "b"], "correct": [1]}, None, "'correct' has 1 labels for 2 answers"),
        ({"completions": ["a", "b"], "good": ["x", "y"]}, "good", "some are no numbers"),
    ],
)
def test_labels_that_cannot_be_used_are_named(row: dict[str, Any], key: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read([{"prompt": "p", "reward": [1.0, 0.0]} | row], key)

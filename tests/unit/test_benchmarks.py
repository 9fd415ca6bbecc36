"""JudgeBench, RMB and M-RewardBench equal their definitions, on rewards of which ties and right ones are known."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nemo_bt.errors import UserError
from nemo_bt.evaluation.accuracy import Scored
from nemo_bt.evaluation.measure import measure
from nemo_bt.evaluation.tables import leaderboard_row, tables_of
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
    with pytest.raises(UserError, match="expected a source that begins with mmlu-pro, .* got arena"):
        measure([Scored([1.0], [0.0], {"source": "arena"})], "judgebench")


def rmb(path: str, chosen: float, rejected: Sequence[float]) -> dict[str, Any]:
    asked = {"conversation_input": [{"role": "user", "content": "q"}], "category_path": path}
    if path.startswith("Pairwise"):
        row = {"chosen": {"answer": "good"}, "reject": {"answer": "bad"}}
        return asked | row | {"reward_chosen": chosen, "reward_rejected": rejected[0]}
    others = [{"llm_name": "m", "answer": f"bad {n}"} for n in range(len(rejected))]
    row = {"bon_best": {"answer": "good"}, "loser_list": others}
    return asked | row | {"reward_chosen": [chosen], "reward_rejected": list(rejected)}


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


def test_languages_have_a_score_each_and_their_mean() -> None:
    rows = [
        {"prompt": "p", "chosen": "c", "rejected": "r", "subset": "hep-go", "language": language}
        | {"reward_chosen": 1.0, "reward_rejected": rejected}
        for language, wrong in (("deu_Latn", 0), ("zho_Hans", 2))
        for rejected in [2.0] * wrong + [0.0] * (4 - wrong)
    ]
    found = results_of(rows)
    assert found["kind"] == "rewardbench"
    assert found["languages"] == {"deu_Latn": 0.25, "zho_Hans": 0.125}  # three of four sections are not there
    assert found["score"] == 0.1875

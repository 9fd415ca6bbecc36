"""What a report says of rewards, against closed forms and independent computations."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nemo_bt.data.formats.responses import Chat, Text
from nemo_bt.evaluation.accuracy import tally
from nemo_bt.reporting.curves import panels_of
from nemo_bt.reporting.numbers import (
    calibration,
    correlations,
    numbers_of,
    part_test,
    swap_test,
    worst_of,
)
from nemo_bt.reporting.page import worst_pairs
from tests.support.judged import judged


def test_a_model_that_is_three_quarters_sure_and_wrong_is_off_by_a_half() -> None:
    found = calibration(math.log(3) * np.array([1.0, -1.0, -1.0, -1.0]))
    assert found["ece"] == pytest.approx(0.5)
    (one,) = found["bins"]
    assert one == {"low": 0.75, "high": 0.8, "pairs": 4, "confidence": pytest.approx(0.75), "accuracy": 0.25}


def test_ties_are_half_right_and_certainty_has_a_bin() -> None:
    assert calibration(np.zeros(3))["ece"] == 0
    certain = calibration(np.array([800.0, -800.0]))
    assert (certain["ece"], certain["bins"][0]["high"]) == (0.5, 1.0)


def test_outcomes_drawn_as_the_model_says_are_calibrated() -> None:
    draw = np.random.default_rng(0)
    size = draw.exponential(1.5, 40_000)
    is_right = draw.random(40_000) < 1 / (1 + np.exp(-size))
    assert calibration(np.where(is_right, size, -size))["ece"] < 0.01
    assert calibration(np.where(is_right, 2 * size, -2 * size))["ece"] > 0.05  # twice as sure as it may be


def test_numbers_count_as_by_hand() -> None:
    rewards_E2 = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [np.nan, 1.0], [4.0, -1.0], [0.5, np.inf]])
    characters_E2 = np.array([[10, 20], [30, 10], [10, 10], [1, 1], [9, 0], [1, 1]])
    found = numbers_of(judged(rewards_E2, characters_E2), "32")
    assert (found["pairs"], found["pairs_without_reward"]) == (4, 2)
    assert found["overall"] == tally([(2, 1), (0, 3), (1, 1), (4, -1)]).to_json()
    assert found["margin"] == pytest.approx((1 - 3 + 0 + 5) / 4)
    assert found["longer_wins"] == 0.5
    assert {name: one["pairs"] for name, one in found["by_source"].items()} == {"even": 3, "odd": 1}
    assert {name: one["pairs"] for name, one in found["by_length"].items()} == {
        "0.5 to 0.8": 1,
        "0.8 to 1.25": 1,
        "2 and more": 2,
    }
    assert sum(found["margins"]["counts"]) == 4
    assert found["reward_std"] == pytest.approx(np.std([2, 1, 0, 3, 1, 1, 4, -1]))
    assert found["prompt_only"]["tally"]["ties"] == 5  # of the five that are numbers
    assert found["prompt_only"]["refused"] == 1
    assert found["response_only"] == {"tally": None, "refused": 6}
    assert found["swapped"]["holds"]


def test_the_worst_pairs_come_first() -> None:
    margin_E = np.random.default_rng(1).normal(size=50)
    margin_E[7] = np.nan
    assert worst_of(judged(np.stack([margin_E, np.zeros(50)], axis=1))) == np.argsort(margin_E)[:20].tolist()


def test_a_pair_that_an_epoch_has_twice_is_shown_once() -> None:
    twice = judged(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 2.0], [3.0, 0.0]]))
    assert worst_of(replace(twice, where=["a", "b", "b", "c"])) == [1, 0, 3]
    assert worst_of(twice) == [1, 2, 0, 3]


def test_a_worst_pair_is_called_by_the_turn_that_is_answered() -> None:
    said = [("system", "Be short."), ("user", "First?"), ("assistant", "One."), ("user", "Second?\n Now.")]
    turns = [{"role": role, "content": content} for role, content in said]
    two, three = (Chat([*turns, {"role": "assistant", "content": answer}]) for answer in ("two", "three"))
    for both, start in (((two, three), "Second? Now."), ((Text("", "two"), Text("", "three")), "two")):
        (found,) = worst_pairs(judged(np.array([[0.0, 1.0]])), [both])
        assert found["start"] == start


def test_correlations_are_those_of_all_responses() -> None:
    draw = np.random.default_rng(2)
    characters_E2 = draw.integers(1, 900, (60, 2))
    rewards_E2 = np.log(characters_E2) + 0.1 * draw.normal(size=(60, 2))
    found = correlations(rewards_E2, characters_E2)
    assert found["pearson"] == pytest.approx(np.corrcoef(characters_E2.ravel(), rewards_E2.ravel())[0, 1])
    ranks = [np.unique(values.ravel(), return_inverse=True)[1].astype(float) for values in (characters_E2, rewards_E2)]
    distinct = len(np.unique(characters_E2)) == characters_E2.size
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9 if distinct else 0.02)
    assert correlations(np.ones((3, 2)), characters_E2[:3]) == {"pearson": None, "spearman": None}


def test_rewards_that_depend_on_the_order_fail_the_exchange_test() -> None:
    given_E2 = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [0.5, 0.4]])
    exact = swap_test(given_E2, given_E2, "32")
    assert exact.pop("accuracy") == exact.pop("expected") == 0.25
    assert exact == {"not_turned": 0, "largest_difference": 0.0, "holds": True}
    first_is_better = given_E2 + np.array([[-1.0, 1.0]])  # what stands first gets one more
    found = swap_test(given_E2 + np.array([[1.0, 0.0]]), first_is_better, "bf16-mixed")
    assert (found["not_turned"], found["largest_difference"], found["holds"]) == (3, 2.0, False)


def test_differences_of_rounding_are_none() -> None:
    given_E2 = np.array([[2.0, 1.0], [1.0, 1.0]])
    for size, precision, holds in ((1e-6, "32", True), (1e-3, "32", False), (1e-3, "bf16-mixed", True)):
        found = swap_test(given_E2, given_E2 + size * np.array([[1, -1]] * 2), precision)
        assert (found["not_turned"], found["holds"]) == (1, holds)  # the tie is no tie any more
        assert found["largest_difference"] == pytest.approx(size)
    lost = swap_test(given_E2, np.array([[np.nan, 1.0], [1.0, 1.0]]), "32")
    assert (lost["not_turned"], lost["largest_difference"], lost["holds"]) == (1, None, False)


def test_parts_that_nobody_knows_are_no_test() -> None:
    assert part_test(np.full((3, 2), np.nan), np.zeros(3, dtype=bool)) == {"tally": None, "refused": 0}
    reward_E2, known_E = np.array([[1.0, 0.0], [np.nan, 0.0], [np.nan, np.nan]]), np.array([True, True, False])
    assert part_test(reward_E2, known_E) == {"tally": tally([(1, 0)]).to_json(), "refused": 1}


def test_curves_are_the_logged_numbers() -> None:
    records = [
        {"step": 1, "train/loss": 0.7, "train/grad_norm": None, "train/source/a/accuracy": 0.5, "train/lr": 1e-5},
        {
            "step": 2,
            "train/loss": 0.6,
            "train/grad_norm": 2.0,
            "train/reward_chosen": 1.0,
            "train/reward_rejected": 0.0,
        },
        {"step": 2, "val/a set/loss": 0.65, "val/a set/source/b/accuracy": 1.0},
    ]
    panels = {panel.name: panel for panel in panels_of(records)}
    assert list(panels) == ["loss", "rewards", "learning-rate", "gradient", "sources"]
    lines = {name: [(one.label, one.steps, one.values) for one in panel.series] for name, panel in panels.items()}
    assert lines["loss"] == [("train", [1, 2], [0.7, 0.6]), ("a set", [2], [0.65])]
    assert lines["gradient"] == [("train", [2], [2.0])]
    assert lines["rewards"] == [("train, chosen", [2], [1.0]), ("train, rejected", [2], [0.0])]
    assert lines["sources"] == [("train, a", [1], [0.5]), ("a set, b", [2], [1.0])]
    assert panels_of([]) == []
    lost = [{"step": 1, "train/loss": math.nan}, {"step": 2, "train/loss": 0.5, "train/lr": math.inf}]
    (loss,) = panels_of(lost)
    assert (loss.series[0].steps, loss.series[0].values) == ([2], [0.5])


@pytest.mark.parametrize("name", ["source", "val", "a/b", "_x"])
def test_a_set_may_be_called_like_a_part_of_a_name(name: str) -> None:
    records = [
        {"step": 0, f"val/{name}/accuracy": 0.1},  # of a validation alone, appended later
        {"step": 3, f"val/{name}/accuracy": 0.5, f"val/{name}/source/source/accuracy": 0.25},
    ]
    accuracy, sources = panels_of(records[::-1])
    assert [(one.label, one.steps, one.values) for one in accuracy.series] == [(name, [0, 3], [0.1, 0.5])]
    assert [(one.label, one.values) for one in sources.series] == [(f"{name}, source", [0.25])]


def test_a_set_without_any_reward_has_no_kept_entry() -> None:
    of_set = judged(np.full((2, 2), np.inf))
    assert len(replace(of_set, name="b").kept) == 0

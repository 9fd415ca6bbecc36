"""What a report says of attributes, against numbers by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nemo_bt.evaluation.accuracy import tally
from nemo_bt.reporting.attributes import numbers_of_attributes
from nemo_bt.reporting.curves import panels_of
from nemo_bt.reporting.numbers import JudgedSet
from nemo_bt.reporting.rewards import KnownAnswers
from tests.support.judged import judged

NAN = math.nan


def judged_attributes(*of_each: list[list[float]]) -> JudgedSet:
    """Pairs of which the third has no finite reward; responses of 30 and 10 characters, then of 5 and 10."""
    one = judged(np.array([[2.0, 1.0], [0.0, 1.0], [NAN, 1.0]]), np.array([[30, 10], [5, 10], [99, 1]]))
    attribute_E2A = np.stack([np.array(pairs, dtype=np.float64) for pairs in of_each], axis=2)
    return replace(one, rewards=replace(one.rewards, attribute_E2A=attribute_E2A))


def test_an_attribute_is_measured_where_its_value_is_known_and_ranks_by_itself() -> None:
    pairs = judged_attributes([[3, 1], [2, 1], [0, 9]], [[1, 1], [0, 2], [9, 9]])
    reward_NA = np.array([[1.0, 0.0], [3.0, 2.0], [2.0, 1.0], [NAN, 0.0]])
    value_NA = np.array([[0.0, NAN], [4.0, NAN], [NAN, 0.5], [1.0, NAN]])
    known = KnownAnswers(reward_NA, value_NA, {"help": 0.75, "length": -0.25}, "mse")
    found = numbers_of_attributes(pairs, known)
    assert list(found) == ["help", "length"]
    first, second = found.values()
    assert (first["weight"], first["known"], first["unknown"], first["error"]) == (0.75, 2, 2, 1.0)
    assert (first["pearson"], first["spearman"]) == (pytest.approx(1), pytest.approx(1))
    assert first["overall"] == tally([(3, 1), (2, 1)]).to_json()
    expected = np.corrcoef([30, 10, 5, 10], [3, 1, 2, 1])[0, 1]
    assert first["length"]["pearson"] == pytest.approx(expected)
    assert (second["known"], second["error"], second["pearson"], second["spearman"]) == (1, 0.25, None, None)
    assert second["overall"] == tally([(1, 1), (0, 2)]).to_json()


def test_the_error_of_a_cross_entropy_is_in_nats() -> None:
    known = KnownAnswers(np.array([[0.0], [math.log(3)]]), np.array([[0.25], [1.0]]), {"help": 1.0}, "bce")
    (found,) = numbers_of_attributes(judged_attributes([[1, 0], [1, 0], [1, 0]]), known).values()
    assert (found["error_kind"], found["error"]) == ("bce", pytest.approx((math.log(2) - math.log(0.75)) / 2))


def test_an_attribute_of_which_nothing_is_known_has_no_error() -> None:
    known = KnownAnswers(np.ones((2, 1)), np.full((2, 1), NAN), {"help": 1.0}, "mse")
    (found,) = numbers_of_attributes(judged_attributes([[1, 0], [1, 0], [1, 0]]), known).values()
    assert (found["known"], found["unknown"], found["error"], found["pearson"]) == (0, 2, None, None)


def test_errors_of_attributes_are_a_curve_of_their_own() -> None:
    records = [
        {"step": 1, "train/loss": 0.7, "train/attribute/a/b/error": 2.0, "train/attribute/a/b/known": 4.0},
        {"step": 2, "val/attribute/attribute/x/error": 1.0, "val/attribute/source/s/attribute/x/error": 3.0},
        {"step": 2, "val/attribute/source/s/accuracy": 0.5, "val/attribute/accuracy": 0.25},
    ]
    panels = {panel.name: [(one.label, one.values) for one in panel.series] for panel in panels_of(records)}
    assert panels == {
        "loss": [("train", [0.7])],
        "accuracy": [("attribute", [0.25])],
        "sources": [("attribute, s", [0.5])],
        "attributes": [("train, a/b", [2.0]), ("attribute, x", [1.0])],
    }

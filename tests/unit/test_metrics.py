"""Sums and means against counting by hand."""

import numpy as np
import pytest
import torch

from nemo_bt.losses.regression import value_errors
from nemo_bt.metrics import (
    MARGIN_LIMITS,
    NUM_SUMS,
    SUMS,
    answer_means,
    answer_sums,
    attribute_means,
    attribute_sums,
    margin_counts,
    means,
    means_by_source,
    num_sums,
    pair_sums,
    with_order,
)
from tests.support.sums import sums_of


def test_sources_are_summed_apart() -> None:
    loss, chosen, rejected = torch.rand(3, 5)
    sums = pair_sums(loss, chosen, rejected, torch.tensor([2, 0, 2, 2, 0]), num_sources=3)
    assert sums[0].tolist() == sums_of(loss[[1, 4]], chosen[[1, 4]], rejected[[1, 4]])[0].tolist()
    assert sums.sum(0).tolist() == pytest.approx(sums_of(loss, chosen, rejected)[0].tolist())
    record = means_by_source(sums.tolist(), ["a", "b", "c"])
    assert record["source/a/loss"] == pytest.approx(loss[[1, 4]].mean().item())
    assert (record["source/a/pairs"], record["source/c/pairs"]) == (2, 3)
    assert not any(name.startswith("source/b") for name in record)
    assert means_by_source(sums[:1].tolist(), ["a"]) == {}


def test_sums_count_right_pairs_and_ties_apart() -> None:
    chosen, rejected = torch.tensor([2.0, 1.0, 0.5]), torch.tensor([1.0, 1.0, 1.5])
    (sums_M,) = sums_of(torch.tensor([0.1, 0.2, 0.3]), chosen, rejected).tolist()
    sums = dict(zip(SUMS, sums_M[: len(SUMS)], strict=True))
    assert sums == pytest.approx(
        {
            "pairs": 3,
            "loss": 0.6,
            "accuracy": 1,
            "ties": 1,
            "reward_chosen": 3.5,
            "reward_rejected": 3.5,
            "margin": 0.0,
            "reward_squares": 4 + 1 + 1 + 1 + 0.25 + 2.25,
            "ordered": 3,
            "tie": 0,
        }
    )


def test_no_pairs_sum_to_zero() -> None:
    assert sums_of(torch.empty(0), torch.empty(0), torch.empty(0)).tolist() == [[0.0] * NUM_SUMS]


def test_adding_sums_weighs_every_pair_the_same() -> None:
    loss, chosen, rejected = torch.rand(3, 5)
    whole = sums_of(loss, chosen, rejected)[0]
    parts = sum(sums_of(loss[i], chosen[i], rejected[i])[0] for i in (slice(0, 1), slice(1, 5)))
    assert means(parts.tolist()) == pytest.approx(means(whole.tolist()))
    assert means(whole.tolist())["loss"] == pytest.approx(loss.mean().item())


def test_the_deviation_is_that_of_all_rewards() -> None:
    chosen, rejected = 3 + torch.randn(2, 50, dtype=torch.float64)
    (sums_M,) = sums_of(torch.zeros(50), chosen, rejected).tolist()
    assert means(sums_M)["reward_std"] == pytest.approx(torch.cat([chosen, rejected]).std(correction=0).item())


def test_margins_are_counted_in_bins() -> None:
    margin_P = torch.cat([torch.randn(500) * 10 ** torch.randint(-3, 3, (500,)), torch.tensor([0.0, 0.01, -200.0])])
    (sums_M,) = sums_of(torch.zeros(503), margin_P, torch.zeros(503)).tolist()
    limits = np.array([-np.inf, *MARGIN_LIMITS, np.inf])
    expected, _ = np.histogram(margin_P.double().numpy(), limits)
    assert margin_counts(sums_M) == expected.tolist()


def test_ties_stay_a_count() -> None:
    assert means([4.0, 2.0, 1.0, 3.0, *[0.0] * (NUM_SUMS - 4)])["ties"] == 3.0


def test_a_mean_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair, got sums over 0"):
        means([0.0] * NUM_SUMS)


def test_lists_add_the_share_of_their_ordered_pairs_and_ties_of_the_data_add_nothing() -> None:
    reward_PK = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 5.0], [0.0, 0.0, 0.0]])
    better_PKK = torch.zeros(3, 3, 3, dtype=torch.bool)
    better_PKK[0, [0, 0, 1], [1, 2, 2]] = True  # 3 > 1, 3 > 2, and 1 before 2
    better_PKK[1, 0, 1] = True  # equal rewards
    source_P = torch.tensor([0, 1, 1])
    sums_SM = pair_sums(torch.ones(3), reward_PK[:, 0], reward_PK[:, 2], source_P, num_sources=2)
    first, second = with_order(sums_SM, reward_PK, better_PKK, source_P).tolist()
    names = dict(zip(SUMS, first, strict=False)), dict(zip(SUMS, second, strict=False))
    assert [(one["accuracy"], one["ties"], one["ordered"]) for one in names] == [
        (pytest.approx(2 / 3), 0, 1),
        (0, 1, 1),
    ]
    assert [one["pairs"] for one in names] == [1, 2]
    assert means(second)["accuracy"] == 0.0
    unordered = [*second[: SUMS.index("ordered")], 0.0, 0.0, *second[len(SUMS) :]]
    assert "accuracy" not in means(unordered)
    assert means_by_source([second, unordered], ["a", "b"]).keys() == {
        *(f"source/a/{key}" for key in ("loss", "accuracy", "pairs")), "source/b/loss", "source/b/pairs"
    }  # fmt: skip


def test_attributes_are_measured_where_they_are_known() -> None:
    """Two lists of two and one answers, of two sources; of the second attribute the first source knows nothing."""
    nan = float("nan")
    reward_PKA = torch.tensor([[[1.0, 5.0], [3.0, 6.0]], [[2.0, 1.0], [0.0, 0.0]]])
    value_PKA = torch.tensor([[[0.0, nan], [nan, nan]], [[4.0, 1.5], [nan, nan]]])
    error_PKA = value_errors(reward_PKA, value_PKA, "mse")
    sums_SM = attribute_sums(reward_PKA, value_PKA, error_PKA, torch.tensor([1, 0]), num_sources=2)
    assert sums_SM.tolist() == [[1, 4, 2, 1, 0.25, 1], [1, 1, 1, 0, 0, 0]]
    whole_M = [0.0] * NUM_SUMS + sums_SM.sum(0).tolist()
    assert len(whole_M) == num_sums(2)
    assert attribute_means(whole_M, ["a", "b"]) == {
        "attribute/a/known": 2, "attribute/a/error": 2.5, "attribute/a/reward": 1.5,
        "attribute/b/known": 1, "attribute/b/error": 0.25, "attribute/b/reward": 1.0,
    }  # fmt: skip
    assert margin_counts(whole_M) == [0] * (len(MARGIN_LIMITS) + 1)
    of_pairs = torch.cat([sums_of(*torch.rand(3, 2)).expand(2, -1), sums_SM], dim=1).tolist()
    of_first = {"loss", "accuracy", "pairs", "attribute/a/known", "attribute/a/error", "attribute/a/reward"}
    found = means_by_source(of_pairs, ["x", "y"], ["a", "b"])
    assert {key.removeprefix("source/y/") for key in found if "/y/" in key} == of_first | {"attribute/b/known"}
    assert (found["source/y/attribute/a/error"], found["source/x/attribute/b/error"]) == (1.0, 0.25)


def test_no_comparison_says_nothing_of_attributes() -> None:
    nothing_PKA = torch.empty(0, 2, 3)
    none = attribute_sums(nothing_PKA, nothing_PKA, nothing_PKA, torch.empty(0, dtype=torch.int64), num_sources=1)
    assert none.tolist() == [[0.0] * 9]


def test_the_error_of_a_value_in_nats_is_its_cross_entropy() -> None:
    found = value_errors(torch.tensor([0.0, 2.0, 9.0]), torch.tensor([0.25, 1.0, float("nan")]), "bce").tolist()
    assert found == pytest.approx([np.log(2), np.log1p(np.exp(-2)), 0.0])


def test_all_answers_of_lists_are_counted_and_those_that_are_not_there_are_not() -> None:
    reward_PK, is_there_PK = torch.tensor([[3.0, 1.0, 0.0], [2.0, 4.0, 9.0]]), torch.ones(2, 3, dtype=torch.bool)
    is_there_PK[0, 2] = False
    sums_SM = answer_sums(reward_PK, is_there_PK, torch.tensor([1, 0]), num_sources=2)
    assert sums_SM.tolist() == [[3, 15, 101], [2, 4, 10]]
    assert answer_sums(reward_PK, None, torch.tensor([0, 0]), num_sources=1).tolist() == [[6, 19, 111]]
    whole_M = [0.0] * num_sums(1) + sums_SM.sum(0).tolist()
    assert len(whole_M) == num_sums(1, has_lists=True)
    std = np.std([3, 1, 2, 4, 9])
    assert answer_means(whole_M, 1) == {"answers": 5, "reward_mean": 3.8, "reward_std": pytest.approx(std)}
    assert answer_means([0.0] * num_sums(1, has_lists=True), 1) == answer_means([0.0] * num_sums(1), 1) == {}

"""Sums and means against counting by hand."""

import pytest
import torch

from nemo_bt.metrics import SUMS, means, pair_sums


def test_sums_count_right_pairs_and_ties_apart() -> None:
    chosen, rejected = torch.tensor([2.0, 1.0, 0.5]), torch.tensor([1.0, 1.0, 1.5])
    sums = dict(zip(SUMS, pair_sums(torch.tensor([0.1, 0.2, 0.3]), chosen, rejected).tolist(), strict=True))
    assert sums == pytest.approx(
        {
            "pairs": 3,
            "loss": 0.6,
            "accuracy": 1,
            "ties": 1,
            "reward_chosen": 3.5,
            "reward_rejected": 3.5,
            "margin": 0.0,
        }
    )


def test_no_pairs_sum_to_zero() -> None:
    assert pair_sums(torch.empty(0), torch.empty(0), torch.empty(0)).tolist() == [0.0] * len(SUMS)


def test_adding_sums_weighs_every_pair_the_same() -> None:
    loss, chosen, rejected = torch.rand(3, 5)
    whole = pair_sums(loss, chosen, rejected)
    parts = sum(pair_sums(loss[i], chosen[i], rejected[i]) for i in (slice(0, 1), slice(1, 5)))
    assert means(parts.tolist()) == pytest.approx(means(whole.tolist()))
    assert means(whole.tolist())["loss"] == pytest.approx(loss.mean().item())


def test_ties_stay_a_count() -> None:
    assert means([4.0, 2.0, 1.0, 3.0, 0.0, 0.0, 0.0])["ties"] == 3.0


def test_a_mean_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair, got sums over 0"):
        means([0.0] * len(SUMS))

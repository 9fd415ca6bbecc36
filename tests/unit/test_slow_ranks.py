"""Who is slow among ranks that do the same work, and on what."""

import pytest

from nemo_bt.training.callbacks.slow_ranks import Slow, slow_ranks


def test_a_rank_a_tenth_above_the_median_of_its_peers_is_slow() -> None:
    assert slow_ranks([[1.0, 0.0], [1.09, 0.0], [1.0, 0.0], [1.02, 0.0]], [0] * 4) == []
    (found,) = slow_ranks([[1.0, 0.0], [1.0, 0.0], [1.5, 0.0], [0.9, 0.0]], [0] * 4)
    assert found == Slow(2, 1.5, "forward and backward")


def test_stages_of_a_pipeline_are_no_peers() -> None:
    """The second stage does other work; a slow rank of a pipeline makes the rest of it slow, and all are named."""
    assert slow_ranks([[1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [3.0, 0.0]], [0, 0, 2, 2]) == []
    found = slow_ranks([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [3.0, 0.0], [6.0, 0.0]], [0, 0, 0, 3, 3, 3])
    assert [(one.rank, one.factor) for one in found] == [(2, 2.0), (5, 2.0)]


@pytest.mark.parametrize(("data_s", "on"), [(0.4, "data"), (0.1, "forward and backward")])
def test_what_more_than_half_of_the_excess_is_spent_on_is_named(data_s: float, on: str) -> None:
    assert slow_ranks([[1.0, 0.0], [1.0, 0.0], [1.5, data_s]], [0] * 3) == [Slow(2, 1.5, on)]


def test_where_nothing_was_measured_nobody_is_slow() -> None:
    assert slow_ranks([[0.0, 0.0], [0.0, 0.0]], [0, 0]) == []

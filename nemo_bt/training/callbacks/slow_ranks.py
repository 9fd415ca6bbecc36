"""Ranks whose own work takes longer than that of their peers, and what they wait for. It imports nothing of NeMo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FEWEST_STEPS = 20
"""Steps over which a rank's time is averaged, at the least."""
_SLOW = 1.1
"""Over the median of its peers, from which a rank is slow."""


@dataclass(frozen=True)
class Slow:
    """A rank that is slow.

    Args:
        rank: which.
        factor: its own time of a step over the median of its peers.
        on: what takes longer: data, or forward and backward.
    """

    rank: int
    factor: float
    on: str


def slow_ranks(times: Sequence[Sequence[float]], first: Sequence[int]) -> list[Slow]:
    """Find ranks that are slower than their peers by more than a tenth.

    Args:
        times: of each rank, seconds of its own work in a step, and those of them in which it had no data.
        first: of each rank, the first of its peers: ranks that do the same work on other pairs.
    """
    found = []
    for rank, (own_s, data_s) in enumerate(times):
        peers = [times[other] for other, of in enumerate(first) if of == first[rank]]
        usual_s, usual_data_s = (median(column) for column in zip(*peers, strict=True))
        if own_s > _SLOW * usual_s > 0:
            is_data = data_s - usual_data_s > (own_s - usual_s) / 2
            found.append(Slow(rank, own_s / usual_s, "data" if is_data else "forward and backward"))
    return found

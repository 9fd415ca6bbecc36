"""The order in which a pipeline rank computes, as Megatron schedules it, and what follows from it.

Source: Narayanan et al. 2021 (arXiv 2104.04473), sections 2.2 and 2.3; megatron-core 0.15.3,
pipeline_parallel/schedules.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Pass(NamedTuple):
    """A micro-batch through one part of the model."""

    is_forward: bool
    part: int


def rank_schedule(stages: int, stage: int, parts: int, num_streams: int) -> list[Pass]:
    """List the passes of pipeline rank `stage` in their order.

    One part, the first of two stages, three streams: F F B F B B.

    Args:
        parts: parts of the model on each rank; an interleaved pipeline has more than one.
        num_streams: micro-batches of a step on a data-parallel rank; a multiple of `stages` where there are parts.
    """
    before = stages - stage - 1 if parts == 1 else 2 * (stages - stage - 1) + (parts - 1) * stages
    rounds = [min(stages, num_streams - start) for start in range(0, num_streams, stages)]
    order = [part for streams in rounds for part in range(parts) for _ in range(streams)]
    forward = [Pass(True, part) for part in order]
    backward = [Pass(False, parts - 1 - part) for part in order]
    before = min(before if stages > 1 else 0, len(order))
    together = [one for both in zip(forward[before:], backward[: len(order) - before], strict=True) for one in both]
    return forward[:before] + together + backward[len(order) - before :]


def bubble(stages: int, parts: int, num_streams: int) -> float:
    """Give the share of a step in which a rank waits, where all parts of all stages take the same time.

    Two stages and three streams: each rank computes 3 of 4 rounds, 0.25.
    """
    return (stages - 1) / (num_streams * parts + stages - 1)


def peak_bytes(schedule: Sequence[Pass], kept: Sequence[int], in_backward: Sequence[int]) -> int:
    """Find the most bytes of activations at any time.

    Args:
        kept: bytes that each part keeps from its forward to its backward pass.
        in_backward: most bytes of each part during its backward pass.
    """
    now = peak = 0
    for one in schedule:
        if one.is_forward:
            now += kept[one.part]
            peak = max(peak, now)
        else:
            now -= kept[one.part]
            peak = max(peak, now + in_backward[one.part])
    return peak

"""Which pairs make an optimizer step, and on which rank and in which stream each of them is computed.

Everything here is a pure function of (seed, step, dataset): any rank computes the same plan, and a resumed run
needs only the step number. A step is always exactly `global_batch_size` pairs; packing never changes which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Streams: TypeAlias = list[list[int]]
"""Pairs (as positions in the step's list) of each stream."""


@dataclass(frozen=True)
class PairSizes:
    """What packing has to know about N pairs.

    Args:
        tokens: stream tokens of each pair, [N], int64.
        cost: compute of each pair in units of one token through the linear layers, [N], float64.
    """

    tokens: Ints
    cost: Floats


def pair_cost(prefix: Ints, chosen: Ints, rejected: Ints, hidden_size: int) -> Floats:
    """Compute of each pair, in tokens: one per token for the linear layers, plus what attention reads.

    A token that attends to n others costs about 4 n hidden FLOPs beside the 24 hidden^2 of a layer's linear
    parts, so n / (6 hidden) tokens.

    Args:
        prefix: tokens of each shared prefix, [N].
        chosen: tokens of each chosen continuation, [N].
        rejected: tokens of each rejected continuation, [N].
        hidden_size: width of the model.

    Returns:
        [N], float64. A pair of 8 + 4 + 4 tokens at width 256 costs 16 + (78 + 42) / 1536 = 16.08.
    """
    first = (prefix + chosen) * (prefix + chosen + 1) / 2
    second = prefix * rejected + rejected * (rejected + 1) / 2
    return (prefix + chosen + rejected + (first + second) / (6 * hidden_size)).astype(np.float64)


def num_steps(num_pairs: int, global_batch_size: int, max_epochs: int) -> int:
    """Whole optimizer steps in `max_epochs` passes; pairs left over at the very end are not trained on."""
    return num_pairs * max_epochs // global_batch_size


def pairs_of_step(seed: int, step: int, global_batch_size: int, num_pairs: int) -> Ints:
    """The pairs of one optimizer step: a window of the endless row of shuffled epochs.

    Steps cross epoch borders, so every pair is used once before any is used twice.

    Returns:
        [global_batch_size], int64.
    """
    positions = np.arange(step * global_batch_size, (step + 1) * global_batch_size)
    epochs, offsets = np.divmod(positions, num_pairs)
    return np.array([_shuffled(seed, int(e), num_pairs)[o] for e, o in zip(epochs, offsets, strict=True)])


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, num_pairs: int) -> Ints:
    return np.random.default_rng((seed, epoch)).permutation(num_pairs)


def plan_streams(sizes: PairSizes, tokens_per_stream: int, data_parallel_size: int) -> list[Streams]:
    """Pack pairs into the fewest streams that fit, the same number on each rank, balanced by cost.

    Args:
        sizes: of the step's pairs.
        tokens_per_stream: budget of a stream; no pair may be longer.
        data_parallel_size: ranks that share the step.

    Returns:
        For each data-parallel rank its streams. Every pair is in exactly one. A rank can hold an empty stream
        when there are fewer pairs than streams.
    """
    num_streams = -(-int(sizes.tokens.sum()) // tokens_per_stream)
    while True:
        num_streams = -(-max(num_streams, 1) // data_parallel_size) * data_parallel_size
        for rule in ("least loaded", "tightest"):
            streams = _place(sizes, num_streams, tokens_per_stream, rule)
            if streams is not None:
                return _deal(streams, sizes, data_parallel_size)
        num_streams += 1


def _place(sizes: PairSizes, num_streams: int, budget: int, rule: str) -> Streams | None:
    """Long pairs first, each to the stream with room that is cheapest so far, or that has least room.

    The first rule balances; the second, best fit, still finds a place where balancing left none.
    """
    streams: Streams = [[] for _ in range(num_streams)]
    cost = np.zeros(num_streams)
    room = np.full(num_streams, budget, dtype=np.int64)
    for pair in np.argsort(-sizes.tokens, kind="stable"):
        fits = room >= sizes.tokens[pair]
        if not fits.any():
            return None
        badness = cost if rule == "least loaded" else room
        stream = int(np.argmin(np.where(fits, badness, np.inf)))
        streams[stream].append(int(pair))
        cost[stream] += sizes.cost[pair]
        room[stream] -= sizes.tokens[pair]
    return streams


def _deal(streams: Streams, sizes: PairSizes, data_parallel_size: int) -> list[Streams]:
    """Give each rank the same number of streams, the dearest first to the rank with the least so far."""
    each = len(streams) // data_parallel_size
    cost = [float(sizes.cost[stream].sum()) for stream in streams]
    ranks: list[Streams] = [[] for _ in range(data_parallel_size)]
    load = [0.0] * data_parallel_size
    for index in sorted(range(len(streams)), key=lambda i: (-cost[i], i)):
        rank = min((r for r in range(data_parallel_size) if len(ranks[r]) < each), key=lambda r: (load[r], r))
        ranks[rank].append(sorted(streams[index]))
        load[rank] += cost[index]
    return ranks


def validation_batches(num_pairs: int, global_batch_size: int) -> list[Sequence[int]]:
    """Every pair of a set exactly once, in order; the last batch takes what is left."""
    return [range(i, min(i + global_batch_size, num_pairs)) for i in range(0, num_pairs, global_batch_size)]

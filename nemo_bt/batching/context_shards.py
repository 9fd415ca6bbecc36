"""Rows of a stream that one context-parallel rank holds.

The stream is cut into equal chunks, dealt to the ranks there and back (0 1 1 0 0 1 1 0 for two), so that each has the
same number of tokens, and as many late tokens, which see many keys, as early ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

CHUNKS_PER_RANK = 8


class Run(NamedTuple):
    """Rows `start` to `stop` of the stream, which a rank holds from its own row `local` on."""

    start: int
    stop: int
    local: int


@dataclass(frozen=True)
class ContextShard:
    """What a rank holds: runs in order, none touching the next."""

    runs: tuple[Run, ...]

    def within(self, start: int, stop: int) -> Iterator[Run]:
        """Give what is held of rows `start` to `stop`."""
        for run in self.runs:
            first = max(start, run.start)
            last = min(stop, run.stop)
            if first < last:
                yield Run(first, last, run.local + first - run.start)

    def local(self, row: int) -> int | None:
        """Find where the rank has a row of the stream; None where it has not."""
        return next((run.local for run in self.within(row, row + 1)), None)


@lru_cache(maxsize=256)
def context_shard(num_tokens: int, num_ranks: int = 1, rank: int = 0) -> ContextShard:
    """Give the rows of a stream that a context-parallel rank holds.

    Several ranks need a stream whose tokens are a multiple of num_ranks * CHUNKS_PER_RANK.
    """
    if num_ranks == 1:
        return ContextShard((Run(0, num_tokens, 0),))
    chunk = num_tokens // (num_ranks * CHUNKS_PER_RANK)
    runs: list[Run] = []
    for position, number in enumerate(chunks_of(num_ranks, rank)):
        run = Run(number * chunk, (number + 1) * chunk, position * chunk)
        if runs and runs[-1].stop == run.start:
            run = runs.pop()._replace(stop=run.stop)
        runs.append(run)
    return ContextShard(tuple(runs))


def stream_multiple(num_ranks: int, sequence_parallel_ranks: int) -> int:
    """Give what the tokens of a stream are a multiple of, so that ranks get equally many chunks and rows.

    Two context-parallel ranks without sequence parallelism: 16.
    """
    each = math.lcm(CHUNKS_PER_RANK, sequence_parallel_ranks) if num_ranks > 1 else sequence_parallel_ranks
    return num_ranks * each


def chunks_of(num_ranks: int, rank: int) -> list[int]:
    """List the numbers of a rank's chunks: of two ranks, 0 has 0 3 4 7 ... and 1 has 1 2 5 6 ..."""
    rounds = range(CHUNKS_PER_RANK)
    return [n * num_ranks + (rank if n % 2 == 0 else num_ranks - 1 - rank) for n in rounds]

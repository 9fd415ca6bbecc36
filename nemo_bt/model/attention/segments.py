"""Which rows of a stream attend to which: the continuations of a stream as blocks of query rows and their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_bt.batching.context_shards import ContextShard


@dataclass(frozen=True)
class AttentionRule:
    """What attention computes beside softmax(scale q k) v.

    Args:
        scale: factor on the logits.
        window: tokens that a query sees, itself included; 0 is all.
        softcap: c in c * tanh(logit / c), None is none. Source: Gemma Team 2024 (arXiv 2408.00118), section 2.
        only_scored: compute the last row of each continuation only.
    """

    scale: float
    window: int = 0
    softcap: float | None = None
    only_scored: bool = False


@dataclass(frozen=True)
class Block:
    """Query rows that are computed together.

    Args:
        rows: their places among the rows that this rank holds.
        out_rows: places of their result.
        keys: keys that any of them sees, as positions in the segment.
        num_before: number of those keys that come before the first row itself.
        window: tokens that a row sees, where some row does not see all of `keys` before it; else 0.
    """

    rows: slice
    out_rows: slice
    keys: slice
    num_before: int
    window: int

    @property
    def num_rows(self) -> int:
        """Number of query rows."""
        return self.rows.stop - self.rows.start

    @property
    def num_keys(self) -> int:
        """Number of keys."""
        return self.keys.stop - self.keys.start

    def hidden_keys(self, device: torch.device) -> Tensor | None:
        """Mark the keys that a row must not see, [rows, keys], bool; None where each sees all."""
        if self.num_rows == 1 and not self.window:
            return None
        ones_RK = torch.ones(self.num_rows, self.num_keys, dtype=torch.bool, device=device)
        hidden_RK = ones_RK.triu(self.num_before + 1)
        return hidden_RK | ones_RK.tril_(self.num_before - self.window) if self.window else hidden_RK


@dataclass(frozen=True)
class Segment:
    """A continuation behind its prefix; the first of a group takes the prefix's rows along as its own.

    Args:
        prefix: rows of the stream; empty for the first of a group.
        own: rows of the stream.
        scored_as: place of its last row among the rank's scored rows, where only that row is computed; else None.
    """

    prefix: slice
    own: slice
    scored_as: int | None

    @property
    def num_prefix(self) -> int:
        """Tokens of the prefix."""
        return self.prefix.stop - self.prefix.start

    def of(self, x_GTD: Tensor) -> Tensor:
        """Take the rows of the segment, prefix first, [G, S, D]."""
        return torch.cat([x_GTD[:, self.prefix], x_GTD[:, self.own]], dim=1) if self.num_prefix else x_GTD[:, self.own]

    def rows(self, keys: slice) -> tuple[slice, slice]:
        """Find the rows of the stream at positions `keys` of the segment: the prefix's, and its own behind them."""
        in_prefix = max(0, self.num_prefix - keys.start)  # a row's keys reach beyond the prefix, to itself
        first = self.own.start + keys.start + in_prefix - self.num_prefix
        own = slice(first, first + keys.stop - keys.start - in_prefix)
        return slice(self.prefix.stop - in_prefix, self.prefix.stop), own

    def add_to(self, x_GTD: Tensor, keys: slice, rows_GKD: Tensor) -> None:
        """Add rows, at positions `keys` of the segment, to those of the stream, in place."""
        prefix, own = self.rows(keys)
        in_prefix = prefix.stop - prefix.start
        if in_prefix:
            x_GTD[:, prefix] += rows_GKD[:, :in_prefix]
        x_GTD[:, own] += rows_GKD[:, in_prefix:]

    def blocks(self, max_rows: int, window: int, shard: ContextShard) -> Iterator[Block]:
        """Give blocks of at most `max_rows` of the rows that this rank holds, in order."""
        first = self.own.start if self.scored_as is None else self.own.stop - 1
        for run in shard.within(first, self.own.stop):
            for start in range(run.start, run.stop, max_rows):
                end = min(start + max_rows, run.stop)
                key_of_row = self.num_prefix + start - self.own.start
                first_key = max(0, key_of_row - window + 1) if window else 0
                keys = slice(first_key, key_of_row + end - start)
                local = run.local + start - run.start
                out_start = local if self.scored_as is None else self.scored_as
                yield Block(
                    rows=slice(local, local + end - start),
                    out_rows=slice(out_start, out_start + end - start),
                    keys=keys,
                    num_before=key_of_row - first_key,
                    window=window if window < keys.stop - keys.start else 0,
                )


def segments_of(segments_C5: Tensor, only_scored: bool, shard: ContextShard) -> Iterator[Segment]:
    """Give the segments of a stream.

    Args:
        segments_C5: `PairStream.segments_C5`.
        only_scored: compute the last row of each continuation only, where this rank holds it.
        shard: rows of this rank.
    """
    num_scored = 0
    for prefix_start, prefix_end, start, end, _ in segments_C5.tolist():
        scored_as = num_scored if only_scored else None
        if only_scored:
            if shard.local(end - 1) is None:
                continue
            num_scored += 1
        if start == prefix_end:
            yield Segment(slice(0, 0), slice(prefix_start, end), scored_as)
        else:
            yield Segment(slice(prefix_start, prefix_end), slice(start, end), scored_as)


def scored_here(segments_C5: Tensor, shard: ContextShard) -> tuple[list[int], list[int]]:
    """Find the continuations whose scored token this rank holds, and at which of its rows."""
    rows = [shard.local(end - 1) for end in segments_C5[:, 3].tolist()]
    numbers = [number for number, row in enumerate(rows) if row is not None]
    return numbers, [row for row in rows if row is not None]


def filled_up(rows: list[int], multiple_of: int) -> Tensor:
    """Make rows a tensor, [n], int64: their number, at least 1, is rounded up.

    The last row is what fills them up: in FP8 it is no larger than the largest. Without any row it is row 0.
    """
    return torch.tensor(rows + rows[-1:] * (-len(rows) % multiple_of) if rows else [0] * multiple_of)

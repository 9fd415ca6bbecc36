"""How many pairs of each source an epoch has, and which of them stay together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nemo_bt.batching.entries import Entries
from nemo_bt.batching.sampling import Epoch
from nemo_bt.batching.shuffle import Ints
from nemo_bt.config.data import SourceSettings

_BLOCK_PAIRS = 1 << 20


def num_wanted(source: SourceSettings, num_pairs: int) -> int:
    """Count the entries that a source has in an epoch; 1.5 repeats of 10 pairs are 15."""
    if source.count is not None:
        return source.count
    factor = source.fraction if source.fraction is not None else source.repeat
    return num_pairs if factor is None else round(factor * num_pairs)


def make_epoch(sources: Sequence[Entries], wanted: Sequence[int], seed: int) -> Epoch:
    """Choose the entries of each source: whole repetitions, and a drawn part for what is left.

    Args:
        sources: all entries that each source has.
        wanted: entries of each source in an epoch.
        seed: decides the draw, which is the same in every epoch.

    Returns:
        Sources in order. Ten pairs of which 25 are wanted come twice each, and five of them once more.
    """
    parts: list[Entries] = []
    for number, (source, count) in enumerate(zip(sources, wanted, strict=True)):
        whole, rest = divmod(count, len(source))
        parts += [source] * whole
        if rest:
            parts.append(source.drawn(rest, (seed, number, 1)))
    return Epoch(tuple(parts))


def entries_of(first: int, prompt_N: Any, left_out_D: Ints) -> Entries:
    """Give the entries of a source; the pairs of a prompt are a unit.

    Args:
        first: number in the set of the source's first pair.
        prompt_N: column of the prompt that each pair belongs to; they count up from 0, and equal ones are neighbours.
        left_out_D: pairs of the source that are not among the entries, ascending, [D].
    """
    num_pairs = len(prompt_N)
    if not num_pairs or int(prompt_N[num_pairs - 1]) == num_pairs - 1:  # a prompt a pair
        return Entries(first, num_pairs, left_out_D)
    kind = np.uint32 if num_pairs < 2**32 else np.int64
    starts = []
    before = -1
    num_entries = 0
    for start in range(0, num_pairs, _BLOCK_PAIRS):
        prompt_E = prompt_N[start : start + _BLOCK_PAIRS]
        out = slice(*np.searchsorted(left_out_D, (start, start + len(prompt_E))))
        prompt_E = np.delete(prompt_E, left_out_D[out] - start)
        starts.append((np.flatnonzero(np.diff(prompt_E, prepend=before)) + num_entries).astype(kind))
        before = prompt_E[-1] if len(prompt_E) else before
        num_entries += len(prompt_E)
    return Entries(first, num_pairs, left_out_D, None, np.concatenate(starts))

"""Sources -> the pairs of an epoch: how many of each, and which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nemo_bt.batching.sampling import Epoch, Ints
from nemo_bt.config.data import SourceSettings


def num_wanted(source: SourceSettings, num_pairs: int) -> int:
    """Count the entries that a source has in an epoch; 1.5 repeats of 10 pairs are 15."""
    if source.count is not None:
        return source.count
    factor = source.fraction if source.fraction is not None else source.repeat
    return num_pairs if factor is None else round(factor * num_pairs)


def make_epoch(pairs: Sequence[Ints], prompts: Sequence[Ints], wanted: Sequence[int], seed: int) -> Epoch:
    """Choose the entries of each source: whole repetitions, and a drawn part for what is left.

    Args:
        pairs: numbers of each source's pairs in the whole set, [N].
        prompts: prompt that each of these pairs belongs to, [N], 0 or more; equal ones are neighbours.
        wanted: entries of each source in an epoch.
        seed: decides the draw, which is the same in every epoch.

    Returns:
        Sources in order. Ten pairs of which 25 are wanted come twice each, and five of them once more.
    """
    entries = []
    starts = []
    num_entries = 0
    for number, (pair, prompt, count) in enumerate(zip(pairs, prompts, wanted, strict=True)):
        whole, rest = divmod(count, len(pair))
        drawn = np.random.default_rng((seed, number)).permutation(len(pair))[:rest] if rest else np.empty(0, np.int64)
        for taken in [np.arange(len(pair))] * whole + [np.sort(drawn)]:
            entries.append(pair[taken])
            starts.append(np.flatnonzero(np.diff(prompt[taken], prepend=-1)) + num_entries)
            num_entries += len(taken)
    return Epoch(np.concatenate(entries).astype(np.int64), np.concatenate(starts).astype(np.int64))

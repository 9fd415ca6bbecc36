"""Which pairs make an optimizer step: a pure function of (seed, step, data set), so resume needs one integer.

A step is always exactly `global_batch_size` pairs; packing never changes which.

Shape suffixes: E = entries of an epoch (pairs, some perhaps several times), U = units that stay together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Epoch:
    """What one pass over the data has.

    Args:
        pair_E: number of each pair in its set, [E], int64; pairs of one prompt are neighbours.
        unit_start_U: first entry of each unit, [U], int64. A unit stays together when entries are shuffled: the pairs
            of one prompt.
    """

    pair_E: Ints
    unit_start_U: Ints

    def __len__(self) -> int:
        return len(self.pair_E)


def every_pair_once(num_pairs: int) -> Epoch:
    """Make an epoch of pairs that have nothing to do with each other."""
    return Epoch(np.arange(num_pairs), np.arange(num_pairs))


def num_steps(num_pairs: int, global_batch_size: int, max_epochs: int) -> int:
    """Count the whole optimizer steps in `max_epochs` passes; pairs left over at the very end are not trained on."""
    return num_pairs * max_epochs // global_batch_size


def pairs_of_step(seed: int, step: int, global_batch_size: int, epoch: Epoch) -> Ints:
    """Choose the pairs of one optimizer step, by number, [global_batch_size].

    Steps count from 0. Epochs follow each other without a gap; within one, every entry comes once. Units are shuffled,
    not their entries: the pairs of a prompt follow each other.
    """
    positions = np.arange(step * global_batch_size, (step + 1) * global_batch_size)
    epochs, offsets = np.divmod(positions, len(epoch))
    pairs = np.empty(global_batch_size, dtype=np.int64)
    for number in np.unique(epochs).tolist():
        unit, end = _shuffled(seed, number, epoch)
        offset = offsets[epochs == number]
        place = np.searchsorted(end, offset, side="right")
        in_unit = offset - np.where(place > 0, end[place - 1], 0)
        pairs[epochs == number] = epoch.pair_E[epoch.unit_start_U[unit[place]] + in_unit]
    return pairs


@lru_cache(maxsize=2)  # the two epochs that a step can lie in
def _shuffled(seed: int, number: int, epoch: Epoch) -> tuple[Ints, Ints]:
    """Shuffle the units of one epoch; give them in their order, and where each ends in it."""
    sizes = np.diff(epoch.unit_start_U, append=len(epoch))
    unit = np.random.default_rng((seed, number)).permutation(len(sizes))
    return unit, sizes[unit].cumsum()


def validation_interval(val_check_interval: float, num_steps: int) -> int:
    """Count the steps between validations: an int is that many, a float that fraction of the run (0.25 of 101: 26)."""
    return val_check_interval if isinstance(val_check_interval, int) else math.ceil(val_check_interval * num_steps)


def validation_batches(num_pairs: int, global_batch_size: int) -> list[Sequence[int]]:
    """Cut a set into batches, every pair exactly once, in order; the last batch takes what is left."""
    return [range(i, min(i + global_batch_size, num_pairs)) for i in range(0, num_pairs, global_batch_size)]

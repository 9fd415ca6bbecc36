"""Which pairs make an optimizer step: a pure function of (seed, step, data set), so resume needs one integer.

A step is always exactly `global_batch_size` pairs; packing never changes which. Kept in memory are four bytes a prompt,
where several pairs share one, and eight bytes a pair of those that are drawn or left out; all others take none.

Shape suffixes: E = entries of an epoch (pairs, some perhaps several times), U = units that stay together, R = runs of
units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from nemo_bt.batching.entries import Entries
from nemo_bt.batching.shuffle import Ints, shuffled

ORDER = 2
"""Version of which pairs a step has; raised whenever that changes. The first was a permutation in memory."""
_RUN_UNITS = 256
_BLOCK_UNITS = 256 * _RUN_UNITS


@dataclass(frozen=True, eq=False)
class Epoch:
    """What one pass over the data has: entries of each source in turn, as often as it is repeated."""

    parts: tuple[Entries, ...]

    @cached_property
    def _sources(self) -> list[Entries]:
        return list(dict.fromkeys(self.parts))  # a repeated source stands there once

    @cached_property
    def _source_of_part(self) -> Ints:
        places = {source: place for place, source in enumerate(self._sources)}
        return np.array([places[part] for part in self.parts])

    @cached_property
    def _first_entry(self) -> Ints:
        return np.cumsum([0, *(len(part) for part in self.parts)])

    @cached_property
    def _first_unit(self) -> Ints:
        return np.cumsum([0, *(part.num_units for part in self.parts)])

    def __len__(self) -> int:
        return int(self._first_entry[-1])

    @property
    def num_units(self) -> int:
        """Units of all parts."""
        return int(self._first_unit[-1])

    def all_pairs(self) -> Ints:
        """Give the number in the set of every entry's pair, [E], int64; a large array, for a large set."""
        return self.pairs_at(np.arange(len(self)))

    def pairs_at(self, entries: Sequence[int] | Ints) -> Ints:
        """Give the numbers, in the set, of the pairs of some entries, [P]."""
        entry_P = np.asarray(entries, dtype=np.int64)
        part_P = np.searchsorted(self._first_entry, entry_P, side="right") - 1
        own_P = entry_P - self._first_entry[part_P]
        pair_P = np.empty(len(entry_P), dtype=np.int64)
        for source, here in self._by_source(part_P):
            pair_P[here] = source.pairs_at(own_P[here])
        return pair_P

    def units_at(self, unit_P: Ints) -> tuple[Ints, Ints]:
        """Give the first entry of some units, and how many each has, [P] each."""
        part_P = np.searchsorted(self._first_unit, unit_P, side="right") - 1
        own_P = unit_P - self._first_unit[part_P]
        start_P = np.empty(len(unit_P), dtype=np.int64)
        size_P = np.empty(len(unit_P), dtype=np.int64)
        for source, here in self._by_source(part_P):
            start_P[here], size_P[here] = source.units_at(own_P[here])
        return start_P + self._first_entry[part_P], size_P

    def _by_source(self, part_P: Ints) -> Iterator[tuple[Entries, Any]]:
        source_P = self._source_of_part[part_P]
        for place in np.unique(source_P).tolist():
            yield self._sources[place], source_P == place


def every_pair_once(num_pairs: int) -> Epoch:
    """Make an epoch of pairs that have nothing to do with each other."""
    return Epoch((Entries(0, num_pairs),))


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
        here = epochs == number
        pairs[here] = epoch.pairs_at(_entries_at(seed, number, epoch, offsets[here]))
    return pairs


def _entries_at(seed: int, number: int, epoch: Epoch, offset_P: Ints) -> Ints:
    """Give the entries at some places of a shuffled epoch, ascending ones, [P]."""
    if epoch.num_units == len(epoch):
        return shuffled(offset_P, len(epoch), (seed, number))
    end_R = _ends_of_runs(seed, number, epoch)
    first, last = np.searchsorted(end_R, offset_P[[0, -1]], side="right").tolist()
    places = np.arange(first * _RUN_UNITS, min((last + 1) * _RUN_UNITS, epoch.num_units))
    start, size = epoch.units_at(shuffled(places, epoch.num_units, (seed, number)))
    end = size.cumsum() + (end_R[first - 1] if first else 0)
    unit_P = np.searchsorted(end, offset_P, side="right")
    return start[unit_P] + offset_P - (end - size)[unit_P]


@lru_cache(maxsize=2)  # the two epochs that a step can lie in
def _ends_of_runs(seed: int, number: int, epoch: Epoch) -> Ints:
    """Count, for each run of 256 units of a shuffled epoch, the entries up to its end, [R]. Takes a pass over units."""
    sizes = []
    for start in range(0, epoch.num_units, _BLOCK_UNITS):
        places = np.arange(start, min(start + _BLOCK_UNITS, epoch.num_units))
        size_U = epoch.units_at(shuffled(places, epoch.num_units, (seed, number)))[1]
        sizes.append(np.add.reduceat(size_U, np.arange(0, len(size_U), _RUN_UNITS)))
    ends: Ints = np.concatenate(sizes).cumsum()
    return ends


def validation_interval(val_check_interval: float, num_steps: int) -> int:
    """Count the steps between validations: an int is that many, a float that fraction of the run (0.25 of 101: 26)."""
    return val_check_interval if isinstance(val_check_interval, int) else math.ceil(val_check_interval * num_steps)


def validation_batches(num_pairs: int, global_batch_size: int) -> list[Sequence[int]]:
    """Cut a set into batches, every pair exactly once, in order; the last batch takes what is left."""
    return [range(i, min(i + global_batch_size, num_pairs)) for i in range(0, num_pairs, global_batch_size)]

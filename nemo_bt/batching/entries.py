"""Pairs of one source that an epoch has once each, and which of them stay together.

Shape suffixes: D = pairs that are left out, E = entries, U = units, P = what is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from nemo_bt.batching.shuffle import Ints, shuffled


def _none() -> Ints:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Entries:
    """All pairs of a source that are not left out, or some that were drawn, in the order of the source.

    Args:
        first: number in the set of the source's first pair.
        num_pairs: of the source.
        left_out_D: numbers in the source of pairs that no epoch has, ascending, [D].
        drawn_E: positions among the others of those that were drawn, ascending, [E]; None: all.
        unit_start_U: first entry of each unit, [U]; None: each entry is a unit. A unit stays together when entries are
            shuffled: the pairs of one prompt.
    """

    first: int
    num_pairs: int
    left_out_D: Ints = field(default_factory=_none)
    drawn_E: Ints | None = None
    unit_start_U: Any = None

    def __len__(self) -> int:
        return self.num_pairs - len(self.left_out_D) if self.drawn_E is None else len(self.drawn_E)

    @property
    def num_units(self) -> int:
        """Units of the entries."""
        return len(self) if self.unit_start_U is None else len(self.unit_start_U)

    @cached_property
    def _kept_before(self) -> Ints:
        return self.left_out_D - np.arange(len(self.left_out_D))

    def pairs_at(self, entry_P: Ints) -> Ints:
        """Give the numbers, in the set, of the pairs of some entries, [P]."""
        kept_P = entry_P if self.drawn_E is None else self.drawn_E[entry_P]
        return self.first + kept_P + np.searchsorted(self._kept_before, kept_P, side="right")

    def units_at(self, unit_P: Ints) -> tuple[Ints, Ints]:
        """Give the first entry of some units, and how many each has, [P] each."""
        if self.unit_start_U is None:
            return unit_P, np.ones_like(unit_P)
        start_P = self.unit_start_U[unit_P].astype(np.int64)
        is_last_P = unit_P == len(self.unit_start_U) - 1
        end_P = self.unit_start_U[np.where(is_last_P, 0, unit_P + 1)].astype(np.int64)
        return start_P, np.where(is_last_P, len(self), end_P) - start_P

    def drawn(self, num: int, key: tuple[int, ...]) -> Entries:
        """Draw some of the entries, each at most once. `key` decides which."""
        drawn_E = np.sort(shuffled(np.arange(num), len(self), key))
        starts = self.unit_start_U
        if starts is not None:
            unit_E = np.searchsorted(starts, drawn_E, side="right")
            starts = np.flatnonzero(np.diff(unit_E, prepend=0)).astype(starts.dtype)
        return Entries(self.first, self.num_pairs, self.left_out_D, drawn_E, starts)

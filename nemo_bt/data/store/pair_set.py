"""Cached sources -> PairSet: the pairs of a data set, by number, as slices of memory-mapped files.

Where the loss takes lists, what is called a pair here is a list.

Shape suffixes: N = pairs of a source, P = pairs asked for, K = sides of the longest of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_bt.batching.packing import PairParts
from nemo_bt.batching.sampling import Epoch
from nemo_bt.batching.shuffle import Ints
from nemo_bt.batching.stream import Comparison, Ids, TokenGroup
from nemo_bt.data.read.drop_report import DropReport
from nemo_bt.data.store.cache import CachedSource
from nemo_bt.data.store.records import ATTRIBUTE


@dataclass(frozen=True)
class PairSet:
    """A data set: one or several sources. Pairs are numbered through them.

    Args:
        name: train, or the validation set's.
        accounts: what became of each source's pairs, after the cache too.
        epoch: which pairs one pass has.
    """

    name: str
    sources: list[CachedSource]
    accounts: list[DropReport]
    epoch: Epoch

    @property
    def source_names(self) -> list[str]:
        """Names of the sources, in order."""
        return [source.name for source in self.sources]

    def _located(self, pairs: Sequence[int] | Ints) -> tuple[Ints, Ints]:
        """Find the source of each pair, and its number in it."""
        firsts = np.cumsum([0, *map(len, self.sources)])
        number_P = np.asarray(pairs, dtype=np.int64)
        source_P = np.searchsorted(firsts, number_P, side="right") - 1
        return source_P, number_P - firsts[source_P]

    def where(self, pair: int) -> str:
        """Name the file and row of a pair."""
        source, number = (int(located[0]) for located in self._located([pair]))
        return self.sources[source].where(number)

    def sources_of(self, pairs: Sequence[int] | Ints) -> list[str]:
        """Name each pair's source."""
        return [self.sources[number].name for number in self._located(pairs)[0].tolist()]

    def column(self, name: str, pairs: Sequence[int] | Ints) -> Any:
        """Read one column of nemo_bt.data.store.records.COLUMNS for the given pairs, [P]."""
        source_P, pair_P = self._located(pairs)
        values = np.empty(len(pair_P), dtype=self.sources[0].columns[name].dtype)
        for number in np.unique(source_P).tolist():
            values[source_P == number] = self.sources[number].columns[name][pair_P[source_P == number]]
        return values

    def _side(self, source: int, pair_P: Ints, name: str, missing: Any) -> Any:
        """Read a column of SIDES for pairs of one source, [P, K]; `missing` stands where one has fewer than K sides."""
        part = self.sources[source]
        num_sides_P = part.columns["num_sides"][pair_P]
        k = np.arange(num_sides_P.max(initial=2))
        is_there_PK = k < num_sides_P[:, None]
        at_PK = np.where(is_there_PK, part.columns["first_side"][pair_P][:, None] + k, 0)
        return np.where(is_there_PK, part.sides[name][at_PK], missing)

    def sides(self, name: str, pairs: Sequence[int] | Ints, missing: Any) -> Any:
        """Read one column of nemo_bt.data.store.records.SIDES for each side of the given pairs, [P, K].

        Args:
            missing: stands where a list has fewer sides than the longest, K; pairs have two.
        """
        source_P, pair_P = self._located(pairs)
        most = int(self.column("num_sides", pairs).max(initial=2))
        values = np.full((len(pair_P), most), missing, dtype=self.sources[0].sides[name].dtype)
        for number in np.unique(source_P).tolist():
            found = self._side(number, pair_P[source_P == number], name, missing)
            values[source_P == number, : found.shape[1]] = found
        return values

    def parts(self, pairs: Sequence[int] | Ints) -> PairParts:
        """Tell where the parts of pairs lie; those of different sources never lie in the same place."""
        apart = self._located(pairs)[0] << 48
        start_PK = self.sides("start", pairs, -1)
        return PairParts(
            prompt=self.column("prompt", pairs) + apart,
            prefix_tokens=self.column("prefix_tokens", pairs),
            start_PK=np.where(start_PK < 0, -1, start_PK + apart[:, None]),
            tokens_PK=self.sides("tokens", pairs, 0),
        )

    def groups(self, pairs: Sequence[int] | Ints) -> list[TokenGroup]:
        """Group pairs for a stream: those of the same prompt together, each of their responses once."""
        by_prompt: dict[tuple[int, int], list[int]] = {}
        for source, pair in zip(*(located.tolist() for located in self._located(pairs)), strict=True):
            by_prompt.setdefault((source, int(self.sources[source].columns["prompt"][pair])), []).append(pair)
        return [self._group(source, members) for (source, _), members in by_prompt.items()]

    def _group(self, number: int, pairs: list[int]) -> TokenGroup:
        source = self.sources[number]
        first = sum(map(len, self.sources[:number]))
        place: dict[int, int] = {}
        continuations: list[Ids] = []
        comparisons: list[Comparison] = []
        for pair in pairs:
            first_side, num_sides = (int(source.columns[name][pair]) for name in ("first_side", "num_sides"))
            stored = {
                name: values[first_side : first_side + num_sides].tolist() for name, values in source.sides.items()
            }
            for start, tokens in zip(stored["start"], stored["tokens"], strict=True):
                if start not in place:
                    place[start] = len(continuations)
                    continuations.append(source.tokens[start : start + tokens])
            margin, preference, weight = (
                float(source.columns[name][pair]) for name in ("margin", "preference", "weight")
            )
            attributes = [values for name, values in stored.items() if name.startswith(ATTRIBUTE)]
            comparisons.append(
                Comparison(
                    sides=tuple(place[start] for start in stored["start"]),
                    scores=tuple(stored["score"]),
                    margin=margin,
                    preference=preference,
                    weight=weight * source.weight,
                    source=number,
                    number=first + pair,
                    attributes=tuple(zip(*attributes, strict=True)),
                )
            )
        start, tokens = (int(source.columns[f"prefix_{what}"][pairs[0]]) for what in ("start", "tokens"))
        return TokenGroup(source.tokens[start : start + tokens], tuple(continuations), tuple(comparisons))

    @property
    def largest_id(self) -> int:
        """The largest token id in the set."""
        return max(source.largest_id for source in self.sources)

"""Cached sources -> PairSet: the pairs of a data set, by number, as slices of memory-mapped files.

Shape suffixes: N = pairs of a source, P = pairs asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_bt.batching.packing import PairParts
from nemo_bt.batching.sampling import Epoch, Ints
from nemo_bt.batching.stream import Ids, Pair, TokenGroup
from nemo_bt.data.read.drop_report import DropReport
from nemo_bt.data.store.cache import CachedSource


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

    def parts(self, pairs: Sequence[int] | Ints) -> PairParts:
        """Tell where the parts of pairs lie; those of different sources never lie in the same place."""
        apart = self._located(pairs)[0] << 48
        starts = [self.column(f"{side}_start", pairs) + apart for side in ("chosen", "rejected")]
        tokens = [self.column(f"{side}_tokens", pairs) for side in ("chosen", "rejected")]
        return PairParts(
            prompt=self.column("prompt", pairs) + apart,
            prefix_tokens=self.column("prefix_tokens", pairs),
            start_P2=np.stack(starts, axis=1),
            tokens_P2=np.stack(tokens, axis=1),
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
        named: list[Pair] = []
        for pair in pairs:
            sides = []
            for side in ("chosen", "rejected"):
                start, tokens = (int(source.columns[f"{side}_{what}"][pair]) for what in ("start", "tokens"))
                if start not in place:
                    place[start] = len(continuations)
                    continuations.append(source.tokens[start : start + tokens])
                sides.append(place[start])
            margin, weight = (float(source.columns[name][pair]) for name in ("margin", "weight"))
            named.append(Pair(sides[0], sides[1], margin, weight * source.weight, number, first + pair))
        start, tokens = (int(source.columns[f"prefix_{what}"][pairs[0]]) for what in ("start", "tokens"))
        return TokenGroup(source.tokens[start : start + tokens], tuple(continuations), tuple(named))

    @property
    def largest_id(self) -> int:
        """The largest token id in the set."""
        return max(source.largest_id for source in self.sources)

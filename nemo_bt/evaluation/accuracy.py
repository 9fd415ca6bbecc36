"""Counts of pairs that were ranked rightly, and how sure their share is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_Z = 1.959963984540054
"""Of the normal distribution, for 95 %."""


@dataclass(frozen=True)
class Tally:
    """Of some pairs.

    Args:
        right: with a chosen reward that is strictly greater.
        ties: with equal rewards.
        total: of all.
    """

    right: int
    ties: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share that is right; a tie is not."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy, 95 %: 8 of 10 are (0.490, 0.943). Source: Wilson 1927, the score interval."""
        share, z2 = self.accuracy, _Z**2
        middle = share + z2 / (2 * self.total)
        half = _Z * math.sqrt(share * (1 - share) / self.total + z2 / (4 * self.total**2))
        scale = 1 + z2 / self.total
        low, high = (middle - half) / scale, (middle + half) / scale
        return min(max(0.0, low), share), max(min(1.0, high), share)  # rounding may pass by a share of 0 or 1

    def to_json(self) -> dict[str, float]:
        """Plain data."""
        low, high = self.interval
        return {"accuracy": self.accuracy, "low": low, "high": high, "ties": self.ties, "pairs": self.total}


def tally(rewards: Iterable[tuple[float, float]]) -> Tally:
    """Count pairs of a chosen and a rejected reward."""
    pairs = list(rewards)
    return Tally(sum(a > b for a, b in pairs), sum(a == b for a, b in pairs), len(pairs))


def by_key(rewards: Iterable[tuple[float, float]], keys: Iterable[str]) -> dict[str, Tally]:
    """Tallies by what each pair is called, in the order of the names."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for pair, key in zip(rewards, keys, strict=True):
        groups.setdefault(key, []).append(pair)
    return {key: tally(groups[key]) for key in sorted(groups)}

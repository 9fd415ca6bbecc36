"""Rewards of a row, counts of pairs that were ranked rightly, and how sure their share is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product


@dataclass(frozen=True)
class Scored:
    """The part of a row that is measured.

    Args:
        chosen: rewards of the right answers; some benchmarks have several.
        rejected: rewards of the wrong answers.
        names: values of the columns id, subset, domain, source and num_correct, where the row has them.
        lengths: characters of the chosen and of the rejected answers; empty where they are not known.
    """

    chosen: list[float]
    rejected: list[float]
    names: dict[str, str] = field(default_factory=dict)
    lengths: tuple[list[int], list[int]] = ([], [])

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Every chosen reward with every rejected one."""
        return list(product(self.chosen, self.rejected))

    @property
    def length_ratios(self) -> list[float]:
        """Length of the chosen answer over that of the rejected one, of each pair; 1 where it is not known."""
        if not all(self.lengths):
            return [1.0] * len(self.pairs)
        return [better / max(1, worse) for better, worse in product(*self.lengths)]


@dataclass(frozen=True)
class Tally:
    """Counts of some pairs.

    Args:
        right: pairs whose chosen reward is strictly greater.
        ties: pairs with equal rewards.
        total: all pairs.
    """

    right: int
    ties: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of right pairs; a tie counts as wrong."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy: 8 of 10 give (0.490, 0.943). Source: Wilson 1927, the score interval."""
        from scipy.stats import binomtest  # takes a second to import

        found = binomtest(self.right, self.total).proportion_ci(0.95, "wilson")
        return float(found.low), float(found.high)

    def to_json(self) -> dict[str, float]:
        """Give the tally as plain data."""
        low, high = self.interval
        return {"accuracy": self.accuracy, "low": low, "high": high, "ties": self.ties, "pairs": self.total}


def tally(rewards: Iterable[tuple[float, float]]) -> Tally:
    """Count pairs of a chosen and a rejected reward."""
    pairs = list(rewards)
    return Tally(sum(a > b for a, b in pairs), sum(a == b for a, b in pairs), len(pairs))


def by_key(rewards: Iterable[tuple[float, float]], keys: Iterable[str]) -> dict[str, Tally]:
    """Count the pairs of each key; the keys are in alphabetical order."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for pair, key in zip(rewards, keys, strict=True):
        groups.setdefault(key, []).append(pair)
    return {key: tally(groups[key]) for key in sorted(groups)}

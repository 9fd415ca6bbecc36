"""What two rewards say of which conversation is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LARGE = 700.0
"""Largest number whose exponential surely fits fp64."""


@dataclass(frozen=True)
class Comparison:
    """Outcome of a comparison of conversations a and b.

    Args:
        winner: a, b, or tie.
        margin: reward of a minus reward of b, both from `score`.
        probability: chance that a is preferred, the sigmoid of the model's own margin (Bradley and Terry 1952).
    """

    winner: str
    margin: float
    probability: float


def comparison_of(shown: float, std: float) -> Comparison:
    """Compare by a margin.

    Args:
        shown: reward of a minus reward of b, as they are shown.
        std: deviation of the model's own rewards that is 1 in those shown.
    """
    margin = shown * std
    winner = "tie" if margin == 0 else "a" if margin > 0 else "b"
    smaller = 1 / (1 + math.exp(abs(margin))) if abs(margin) < _LARGE else 0.0
    return Comparison(winner, shown, 1 - smaller if margin > 0 else smaller)

"""Losses that stand out from those before them. Imports nothing heavy."""

from __future__ import annotations

import statistics
from collections import deque

_WINDOW, _FEWEST = 50, 10
"""Losses that one is compared with."""


class LossSpikes:
    """Compares each logged loss with the mean and the standard deviation of up to 50 before it, 10 at least.

    Args:
        factor: deviations above the mean that are a spike; 0 looks for none.

    Attributes:
        before: losses that the next one is compared with.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.before: deque[float] = deque(maxlen=_WINDOW)

    def look_at(self, loss: float) -> str | None:
        """A warning, where it is a spike."""
        before = list(self.before)
        self.before.append(loss)
        if not self.factor or len(before) < _FEWEST:
            return None
        mean, deviation = statistics.fmean(before), statistics.stdev(before)
        if loss <= mean + self.factor * deviation:
            return None
        return f"loss {loss:.4f} is far above those of the {len(before)} lines before ({mean:.4f} +- {deviation:.4f})"

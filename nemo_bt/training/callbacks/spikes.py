"""Losses that stand out from those before them. This file imports nothing heavy."""

from __future__ import annotations

import statistics
from collections import deque

_WINDOW = 50
"""Losses before it that one is compared with."""
_FEWEST = 10
"""Losses without which none is called a spike."""


class LossSpikes:
    """Compares each logged loss with the mean and the standard deviation of up to 50 before it, 10 at least.

    Args:
        factor: standard deviations above the mean from which a loss is a spike; 0 looks for none.

    Attributes:
        before: losses that the next one is compared with.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.before: deque[float] = deque(maxlen=_WINDOW)

    def look_at(self, loss: float) -> str | None:
        """Give a warning if the loss is a spike."""
        before = list(self.before)
        self.before.append(loss)
        if not self.factor or len(before) < _FEWEST:
            return None
        mean = statistics.fmean(before)
        deviation = statistics.stdev(before)
        if loss <= mean + self.factor * deviation:
            return None
        return f"loss {loss:.4f} is far above those of the {len(before)} lines before ({mean:.4f} +- {deviation:.4f})"

"""What a run spends its time on, kept while it goes on: each second belongs to one cause. It imports nothing heavy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo_bt.observability.events import Cause, append_event


class TimeSpent:
    """A clock of one rank that is always in one cause; it begins in `start`.

    `between` is the time between two steps in which nothing is saved or validated: data, logging, the end of the run.

    Args:
        start_s: when the run's process began, by time.monotonic().
        log_dir: where this rank appends events; None on all ranks but the first.
    """

    def __init__(self, start_s: float, log_dir: Path | None) -> None:
        self.log_dir = log_dir
        self._seconds: dict[str, float] = {}
        self._cause: Cause = "start"
        self._since_s = start_s

    def enter(self, cause: Cause) -> Cause:
        """Be in another cause from now on, and give the one before."""
        now_s = time.monotonic()
        before = self._cause
        self._seconds[before] = self._seconds.get(before, 0.0) + now_s - self._since_s
        self._cause, self._since_s = cause, now_s
        return before

    @contextmanager
    def within(self, cause: Cause) -> Iterator[None]:
        """Be in a cause within a block, then in the one before."""
        before = self.enter(cause)
        try:
            yield
        finally:
            self.enter(before)

    def seconds(self) -> dict[str, float]:
        """Give the seconds spent until now, by cause."""
        self.enter(self._cause)
        return {cause: round(spent_s, 3) for cause, spent_s in self._seconds.items()}

    def tell(self, event: str, **facts: Any) -> None:
        """Append an event with the seconds spent, where this rank is the first.

        `steps_s` is that of the event's step; `facts` say it where that is not the last one.
        """
        if self.log_dir:
            spent = self.seconds()
            append_event(self.log_dir, event, **{"steps_s": spent.get("steps", 0.0), **facts, "spent_s": spent})

"""Where the time of a run went, from its first start over all that followed, by what events.jsonl says.

The effective training time ratio (ETTR) is the time of the steps that count towards the run's state, over all time
since the first start. Source of the ratio: Kokolis et al. 2024 (arXiv 2410.21680). It imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

CAUSES = {
    "steps": "steps that count",
    "again": "steps computed again",
    "failing": "from the last line to a failure",
    "start": "start-up",
    "restore": "restore",
    "save": "saves",
    "validation": "validation",
    "between": "between steps",
    "waiting": "waiting after a failure",
    "stopped": "waiting after a stop",
}
"""Each second of a run is of one of these; each has the words for it."""
_QUEUE = ("waiting", "stopped")
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Goodput:
    """Seconds of a run, by cause: those of `CAUSES`, which add up to all of it."""

    seconds: dict[str, float]

    @property
    def wall_s(self) -> float:
        """From the first start to the last event."""
        return sum(self.seconds.values())

    @property
    def ettr(self) -> float:
        """Effective training time ratio."""
        return self.seconds["steps"] / self.wall_s if self.wall_s else 0.0

    @property
    def ettr_without_queue(self) -> float:
        """The same over the time in which the run had its devices."""
        had_s = self.wall_s - sum(self.seconds[cause] for cause in _QUEUE)
        return self.seconds["steps"] / had_s if had_s else 0.0


@dataclass(frozen=True)
class Costs:
    """Measured seconds, each a mean over a run.

    Args:
        start_s: from the start of the command to the first step, with what a restore takes.
        save_blocks_s: that a save keeps training from going on.
        save_s: from the begin of a save until it is whole.
        step_s: of a step.
    """

    start_s: float
    save_blocks_s: float
    save_s: float
    step_s: float


def account(events: Sequence[Event]) -> Goodput | None:
    """Add a run up; None where a start does not say what it spent, as in runs of earlier versions.

    A run that was killed says nothing of its end: what it did behind its last line counts as waiting.
    """
    attempts = _attempts(events)
    if not attempts or not all("running_s" in attempt[0] for attempt in attempts):
        return None
    seconds = dict.fromkeys(CAUSES, 0.0)
    ended_s: float | None = None
    cause_of_gap = "waiting"
    for number, attempt in enumerate(attempts):
        begun_s = _time_s(attempt[0]) - attempt[0]["running_s"]
        if ended_s is not None:
            seconds[cause_of_gap] += max(0.0, begun_s - ended_s)
        spent = dict(next((event["spent_s"] for event in reversed(attempt) if "spent_s" in event), {}))
        spent = spent or {"start": attempt[0]["running_s"]}
        ended_s = _time_s(attempt[-1])
        has_failed = attempt[-1]["event"] == "failed"
        # The time of day may jump; what a run spent is by a clock that does not.
        spent["failing" if has_failed else "between"] = spent.get("failing" if has_failed else "between", 0.0) + max(
            0.0, ended_s - begun_s - sum(spent.values())
        )
        goes_on_at = min((later[0]["step"] for later in attempts[number + 1 :]), default=None)
        counted_s = spent.get("steps", 0.0) if goes_on_at is None else _steps_s(attempt, goes_on_at)
        spent["again"] = spent.get("steps", 0.0) - counted_s
        spent["steps"] = counted_s
        for cause, spent_s in spent.items():
            seconds[cause] += spent_s
        cause_of_gap = "stopped" if attempt[-1]["event"] == "ended" else "waiting"
    return Goodput(seconds)


def measured(events: Sequence[Event]) -> Costs | None:
    """Give what starts, saves and steps of a run took; None where it has no save and no step."""
    attempts = [attempt for attempt in _attempts(events) if any("spent_s" in event for event in attempt)]
    ends = [next(event for event in reversed(attempt) if "spent_s" in event) for attempt in attempts]
    spent = [event["spent_s"] for event in ends]
    saves = [event for attempt in attempts for event in attempt if event["event"] == "saved"]
    steps = sum(end["step"] - attempt[0]["step"] for end, attempt in zip(ends, attempts, strict=True))
    if not saves or not steps:
        return None
    return Costs(
        start_s=sum(one["start"] + one.get("restore", 0.0) for one in spent) / len(spent),
        save_blocks_s=sum(one.get("save", 0.0) for one in spent) / len(saves),
        save_s=sum(save["took_s"] for save in saves) / len(saves),
        step_s=sum(one.get("steps", 0.0) for one in spent) / steps,
    )


def _attempts(events: Sequence[Event]) -> list[list[Event]]:
    """Split events into starts, each with what it said until it ended."""
    attempts: list[list[Event]] = []
    is_over = True
    for event in events:
        if event["event"] == "started":
            attempts.append([])
            is_over = False
        if not is_over:
            attempts[-1].append(event)
            is_over = event["event"] in ("ended", "failed")  # other ranks, and starts that came to nothing, say more
    return attempts


def _steps_s(attempt: Sequence[Event], until: int) -> float:
    """Give the seconds that an attempt's steps up to one took; between two that it told of, they are shared out."""
    before_step, before_s = attempt[0]["step"], 0.0
    if until <= before_step:
        return 0.0
    for event in sorted((event for event in attempt if "steps_s" in event), key=lambda event: event["step"]):
        step, steps_s = event["step"], event["steps_s"]
        if step >= until and step > before_step:
            return float(before_s + (steps_s - before_s) * (until - before_step) / (step - before_step))
        before_step, before_s = step, steps_s
    return float(before_s)


def _time_s(event: Event) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()

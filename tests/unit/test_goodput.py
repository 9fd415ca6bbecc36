"""Where the time of a run went, of events with known times; and a clock that is always in one cause."""

import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.cli.status import show_status
from nemo_bt.observability.events import FILE, read_events
from nemo_bt.observability.goodput import CAUSES, Costs, account, measured
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.time_spent import TimeSpent


def event(at_s: float, name: str, **facts: Any) -> dict[str, Any]:
    return {"time": datetime.fromtimestamp(1e9 + at_s, UTC).isoformat(), "event": name, "host": "h", "pid": 1, **facts}


def started(at_s: float, step: int, running_s: float) -> dict[str, Any]:
    return event(at_s, "started", step=step, of_steps=100, ranks=2, running_s=running_s)


def told(at_s: float, name: str, step: int, steps_s: float | None = None, **spent: float) -> dict[str, Any]:
    at_step = spent.get("steps", 0.0) if steps_s is None else steps_s
    more = {"took_s": 3.0} if name == "saved" else {"stopped_by": "SIGUSR1"} if name == "ended" else {}
    return event(at_s, name, step=step, steps_s=at_step, spent_s=spent, **more)


FIRST = [
    started(10, 0, running_s=10),  # begun at 0
    told(20, "training", 0, start=20),
    told(41, "progress", 10, start=20, steps=20, between=1),
    told(64, "saved", 10, steps_s=20.0, start=20, steps=40, between=2, save=2),  # begun behind step 10, of 2 s each
    told(66, "progress", 21, start=20, steps=42, between=2, save=2),
]
KILLED_AND_RESUMED = [
    *FIRST,
    # killed; 34 s later it starts again, at the checkpoint
    started(108, 10, running_s=8),
    told(120, "training", 10, start=15, restore=5),
    told(160, "progress", 30, start=15, restore=5, steps=38, between=2),
    event(170, "failed", rank=1, error="RuntimeError"),
    event(172, "failed", rank=0, error="RuntimeError"),
    started(200, 10, running_s=10),
    told(210, "training", 10, start=16, restore=4),
    told(250, "ended", 30, start=16, restore=4, steps=36, validation=3, save=1),
]


def test_a_run_of_known_times_has_the_known_ratio() -> None:
    found = account(KILLED_AND_RESUMED)
    assert found is not None
    assert found.seconds == pytest.approx(
        {
            "steps": 20 + 0 + 36,
            "again": 22 + 38 + 0,
            "failing": 10,
            "start": 20 + 15 + 16,
            "restore": 5 + 4,
            "save": 2 + 1,
            "validation": 3,
            "between": 2 + 2,
            "waiting": (100 - 66) + (190 - 170),
            "stopped": 0,
        }
    )
    assert found.wall_s == pytest.approx(250)
    assert found.ettr == pytest.approx(56 / 250)
    assert found.ettr_without_queue == pytest.approx(56 / (250 - 54))


def test_steps_between_two_lines_are_shared_out_and_a_stop_is_no_failure() -> None:
    events = [*FIRST[:2], told(40, "progress", 10, start=20, steps=20), told(60, "ended", 20, start=20, steps=40)]
    again = [started(101, 15, running_s=1), told(121, "training", 15, start=21)]
    found = account([*events, *again])
    assert found is not None
    assert (found.seconds["steps"], found.seconds["again"]) == pytest.approx((30, 10))
    assert (found.seconds["stopped"], found.seconds["waiting"]) == pytest.approx((40, 0))
    assert found.wall_s == pytest.approx(121)


def test_a_start_at_an_older_checkpoint_takes_steps_back_from_all_before_it() -> None:
    """Of ten steps of 2 s each start has one more checkpoint; the newest two are damaged."""
    events: list[dict[str, Any]] = []
    for number, step in enumerate((0, 10, 20, 5)):
        events += [
            started(100 * number + 1, step, running_s=1),
            told(100 * number + 21, "progress", step + 10, steps=20),
        ]
    found = account(events)
    assert found is not None
    assert (found.seconds["steps"], found.seconds["again"]) == pytest.approx((10 + 20, 10 + 20 + 20))


def test_a_clock_that_went_back_loses_nothing() -> None:
    events = [started(10, 0, running_s=10), told(5, "ended", 10, start=20, steps=30)]
    found = account([*events, started(2, 10, running_s=2), told(4, "training", 10, start=4)])
    assert found is not None
    assert found.wall_s == pytest.approx(20 + 30 + 4)


def test_runs_that_did_not_tell_have_no_account() -> None:
    assert account([]) is None
    assert account([event(0, "started", step=0, of_steps=3, ranks=1)]) is None
    assert measured(FIRST[:2]) is None


def test_costs_of_a_run_are_means() -> None:
    costs = measured(KILLED_AND_RESUMED)
    steps = (21 - 0) + (30 - 10) + (30 - 10)
    assert costs == Costs(start_s=60 / 3, save_blocks_s=3 / 1, save_s=3.0, step_s=pytest.approx(116 / steps))


def test_status_shows_the_ratio_and_what_was_lost(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("".join(json.dumps(one) + "\n" for one in KILLED_AND_RESUMED))
    out = io.StringIO()
    show_status(tmp_path, False, Terminal(out))
    shown = " ".join(out.getvalue().split())
    assert "effective 22.4% of 0:04:10 (ETTR); 28.6% of the time with devices" in shown
    lost = "steps computed again 0:01:00, waiting after a failure 0:00:54, start-up 0:00:51, "
    assert f"lost {lost}from the last line to a failure 0:00:10, restore 0:00:09" in shown
    assert "waiting after a stop" not in shown


def test_a_clock_is_always_in_one_cause(tmp_path: Path) -> None:
    began_s = time.monotonic() - 5
    spent = TimeSpent(began_s, tmp_path)
    spent.enter("between")
    with spent.within("save"):
        spent.enter("steps")
        before = spent.enter("validation")
    seconds = spent.seconds()
    assert before == "steps"
    assert set(seconds) == {"start", "between", "save", "steps", "validation"} <= set(CAUSES)
    assert seconds["start"] == pytest.approx(5, abs=0.1)
    assert spent.enter("steps") == "between"
    assert sum(spent.seconds().values()) == pytest.approx(time.monotonic() - began_s, abs=0.01)
    spent.tell("saved", step=3, steps_s=7.0, took_s=1.0)
    TimeSpent(began_s, None).tell("saved", step=4, took_s=1.0)
    (line,) = read_events(tmp_path)
    assert (line["event"], line["step"], line["steps_s"]) == ("saved", 3, 7.0)
    assert set(line["spent_s"]) == set(seconds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": "now"}, {"time": None}, {"step": "3"}, {"spent_s": 3}, {"spent_s": {"lunch": 3.0}},
        {"spent_s": {"start": "3"}}, {"steps_s": None}, {"took_s": True},
    ],
)  # fmt: skip
def test_a_line_that_no_run_writes_is_left_out(wrong: dict[str, object], tmp_path: Path) -> None:
    saved = {"time": "2026-01-01T00:00:00+00:00", "event": "saved", "step": 3, "steps_s": 1.0, "took_s": 1.0}
    lines = [saved | {"spent_s": {"start": 3.0}}, saved | {"spent_s": {}} | wrong]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_events(tmp_path) == lines[:1]

"""What happened to a run, a line each in <log dir>/events.jsonl. It imports nothing heavy."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

from nemo_bt.errors import UserError, first_line
from nemo_bt.foreign.files import read_text

FILE = "events.jsonl"
Needed = Mapping[str | None, Mapping[str, Any]]
Cause = Literal["start", "restore", "steps", "between", "save", "validation"]
"""What a run says that it spent its time on."""


def _is_time(value: Any) -> bool:
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(value).tzinfo is not None
    return False


def _are_seconds(value: Any) -> bool:
    return isinstance(value, dict) and all(name in get_args(Cause) and _is_number(some) for name, some in value.items())


def _are_seconds_if_any(value: Any) -> bool:
    return value is None or _are_seconds(value)


def _is_number_if_any(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_SPENT = {"time": _is_time, "step": int, "steps_s": _is_number, "spent_s": _are_seconds}
_NEEDED: Needed = {
    None: {"event": str},
    "started": {
        "time": _is_time, "host": str, "pid": int, "step": int, "of_steps": int, "ranks": int,
        "running_s": _is_number_if_any,
    },
    "training": _SPENT,
    "progress": _SPENT,
    "saved": _SPENT | {"took_s": _is_number},
    "ended": {"time": _is_time, "step": int, "stopped_by": str | None, "spent_s": _are_seconds_if_any},
    "failed": {"time": _is_time, "rank": int, "error": str},
}  # fmt: skip
"""Event -> what who reads it needs of its line."""


def append_event(log_dir: Path, event: str, **facts: Any) -> None:
    """Append one line with facts that JSON can hold.

    started, training (before the first step), progress (each line of metrics), saved, ended or failed, attention
    (what computes it), and differs (ranks that should hold the same bits and do not), slow
    (a rank that the others wait for).

    Several processes may do so at once.
    """
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    described = {"time": time, "event": event, "host": socket.gethostname(), "pid": os.getpid(), **facts}
    with (log_dir / FILE).open("a+b", buffering=0) as file:
        is_cut_short = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        file.write((is_cut_short * "\n" + json.dumps(described) + "\n").encode())


@contextmanager
def telling_failure(log_dir: Path, rank: int) -> Iterator[None]:
    """Append what ends a run, unless it was asked to end."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SystemExit):
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
            with suppress(OSError):
                append_event(log_dir, "failed", rank=rank, error=text)
        raise


def read_events(log_dir: Path) -> list[dict[str, Any]]:
    """Read all events that are whole, oldest first."""
    return read_lines(log_dir / FILE, _NEEDED)


def read_lines(file: Path, needed: Needed, left_out: list[str] | None = None) -> list[dict[str, Any]]:
    """Read the objects of a file of JSON lines that are what a run writes; no file has none.

    What a full disk cut short, or somebody else wrote, is left out.

    Args:
        file: one of a log directory.
        needed: for each kind of line, by its event, the types of its fields, or functions that tell whether they fit;
            None is for a line without an event.
        left_out: gets the lines that are not read.

    Raises:
        UserError: the file cannot be read.
    """
    there = os.path.lexists(file)
    text = read_text(file, "Move it away: the run goes on without what is in it.", errors="replace") if there else ""
    records = []
    for line in text.split("\n"):
        record = None
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
        if isinstance(record, dict) and _fits(record, needed):
            records.append(record)
        elif line.strip() and left_out is not None:
            left_out.append(line)
    return records


def _fits(record: dict[str, Any], needed: Needed) -> bool:
    """Tell whether a line has the fields of its kind; a kind that is not known has none."""
    event = record.get("event")
    types = needed.get(event if isinstance(event, str) else None, {})
    return all(_fits_kind(record.get(name), kind) for name, kind in types.items())


def _fits_kind(value: Any, kind: Any) -> bool:
    if isinstance(kind, type | UnionType):
        return isinstance(value, kind) and not isinstance(value, bool)
    return bool(kind(value))

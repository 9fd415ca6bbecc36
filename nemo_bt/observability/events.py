"""What happened to a run, a line each in <log dir>/events.jsonl. It imports nothing heavy."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemo_bt.errors import UserError, first_line

FILE = "events.jsonl"


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
    """Read all lines that are whole, oldest first."""
    return read_lines(log_dir / FILE)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read the objects of a file of JSON lines, except those that a full disk cut short; no file has none."""
    records = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]

"""What happened to a run, a line each in <log dir>/events.jsonl: started, ended, failed. It imports nothing heavy."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "events.jsonl"


def append_event(log_dir: Path, event: str, **facts: Any) -> None:
    """Append one line: started, ended or failed, with facts that JSON can hold. Several processes may do so at once."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    described = {"time": time, "event": event, "host": socket.gethostname(), "pid": os.getpid(), **facts}
    with (log_dir / FILE).open("a+b", buffering=0) as file:
        is_cut_short = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        file.write((is_cut_short * "\n" + json.dumps(described) + "\n").encode())


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

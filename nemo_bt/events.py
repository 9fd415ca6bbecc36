"""What happened to a run, a line each in <log dir>/events.jsonl: started, ended, failed. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FILE = "events.jsonl"


def append_event(log_dir: Path, event: str, **facts: Any) -> None:
    """Append one line; several processes may.

    Args:
        log_dir: of the run.
        event: started, ended or failed.
        facts: JSON-able.
    """
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    described = {"time": time, "event": event, "host": socket.gethostname(), "pid": os.getpid(), **facts}
    with (log_dir / FILE).open("ab", buffering=0) as file:
        file.write((json.dumps(described) + "\n").encode())


def read_events(log_dir: Path) -> list[dict[str, Any]]:
    """All lines that are whole, oldest first."""
    file = log_dir / FILE
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]

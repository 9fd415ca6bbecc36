"""nemo-bt status: where a run is, read from its log directory. It imports nothing heavy, and changes nothing."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nemo_bt.checkpoint.best import best_checkpoint
from nemo_bt.checkpoint.find import saved_checkpoints, wrong_name
from nemo_bt.checkpoint.manifest import MANIFEST, damage, plain_damage
from nemo_bt.errors import UserError
from nemo_bt.files import unfinished_folders
from nemo_bt.foreign.files import reading
from nemo_bt.observability.events import FILE as EVENTS
from nemo_bt.observability.events import read_events
from nemo_bt.observability.goodput import CAUSES, account
from nemo_bt.observability.metrics_log import FILE as METRICS
from nemo_bt.observability.metrics_log import read_metrics, told_errors
from nemo_bt.observability.terminal import Terminal

_WHOLE = "whole"
_MISSED_LINES = 5
"""Logged lines that may be overdue before a run on another host is called silent."""


def show_status(log_dir: Path, verifies: bool, terminal: Terminal) -> None:
    """Print the state of a run, its step, its last validation and its checkpoints.

    With `verifies` it reads all files of all checkpoints, and not just the small ones.

    Raises:
        UserError: no run has written there.
    """
    events = read_events(log_dir) if log_dir.is_dir() else []
    if not any(event["event"] == "started" for event in events):
        raise UserError(f"{log_dir}: expected the log directory of a run, found no {EVENTS} in it.")
    left_out: list[str] = []
    lines = read_metrics(log_dir, left_out)
    with reading(f"{log_dir}: expected the log of a run, got ", "Move away what no run has written."):
        _show(log_dir, verifies, terminal, events, lines, len(left_out))


def _show(
    log_dir: Path,
    verifies: bool,
    terminal: Terminal,
    events: list[dict[str, Any]],
    lines: list[dict[str, Any]],
    left_out: int,
) -> None:
    starts = [event for event in events if event["event"] == "started"]
    training = [line for line in lines if line.get("train/loss") is not None]
    state = _state(log_dir, events, training)
    begun = max(i for i, event in enumerate(events) if event["event"] == "started")
    reached = max((event["step"] for event in events[begun:] if event["event"] in ("started", "ended")), default=0)
    terminal.facts(
        [
            ("state", state),
            ("step", _progress(starts[-1], reached, training, goes_on=state.startswith(("running", "silent")))),
            *_validation(lines),
            ("started", f"{starts[0]['time']}, {len(starts) - 1} restarts"),
            *_slow(events[begun:]),
            *_time(events),
            *([("not read", f"{left_out} lines of {METRICS} that a run does not write")] if left_out else []),
        ]
    )
    rows = _checkpoints(log_dir / "checkpoints", verifies)
    if rows:
        terminal.table(("checkpoint", "state", "GB", "saved"), rows)


def _state(log_dir: Path, events: list[dict[str, Any]], training: list[dict[str, Any]]) -> str:
    start = max(i for i, event in enumerate(events) if event["event"] == "started")
    started = events[start]
    later = events[start + 1 :]
    failed = [event for event in later if event["event"] == "failed"]
    told = f"failed: rank {failed[0]['rank']}: {failed[0]['error']}" if failed else ""
    ended = [event for event in later if event["event"] == "ended"]
    if ended:
        stopped_by = ended[-1]["stopped_by"]
        state = f"stopped by {stopped_by} and saved, to be resumed" if stopped_by else "finished"
        return f"{state}; a later start {told}" if failed and later.index(failed[0]) > later.index(ended[-1]) else state
    if failed:
        return told
    if started["host"] == socket.gethostname() and not _is_alive(started["pid"]):
        return f"gone: its first rank, process {started['pid']}, is no more, and left no word"
    file = log_dir / METRICS
    silent_s = time.time() - (file if file.exists() else log_dir / EVENTS).stat().st_mtime
    usual_s = _seconds_per_step(training) * _steps_per_line(training)
    looks = "silent" if training and silent_s > _MISSED_LINES * usual_s + 60 else "running"
    return f"{looks} on {started['host']}, {started['ranks']} ranks; last line {_short(silent_s)} ago"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _progress(started: dict[str, Any], reached: int, training: list[dict[str, Any]], goes_on: bool) -> str:
    """Say how far a run is; it began or ended at step `reached`, which may lie behind the last logged one."""
    of_steps = started["of_steps"]
    if not training:
        return f"{reached} of {of_steps}; nothing logged yet"
    last = training[-1]
    left_s = (of_steps - last["step"]) * _seconds_per_step(training)
    end = datetime.now() + timedelta(seconds=left_s)
    ahead = f"; left {_short(left_s)}, until {end:%Y-%m-%d %H:%M}" if left_s and goes_on else ""
    skipped = f"; {last['train/skipped_steps']} steps skipped" if last.get("train/skipped_steps") else ""
    measured = f"loss {last['train/loss']:.4f}"
    if last.get("train/accuracy") is not None:  # else the data orders nothing
        measured += f"  accuracy {last['train/accuracy']:.3f}"
    if reached > last["step"]:
        measured += f" at step {last['step']}"
    return f"{max(reached, last['step'])} of {of_steps}  {measured}{ahead}{skipped}"


def _seconds_per_step(training: list[dict[str, Any]]) -> float:
    times = [line["train/step_time_s"] for line in training[-20:] if line.get("train/step_time_s") is not None]
    return float(sum(times) / len(times)) if times else 0.0


def _steps_per_line(training: list[dict[str, Any]]) -> int:
    return int(training[-1]["step"] - training[-2]["step"]) if len(training) > 1 else 1


def _validation(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    validated = [line for line in lines if any(key.startswith("val/") for key in line)]
    if not validated:
        return []
    last = validated[-1]
    rows = []
    for name in dict.fromkeys(key.split("/")[1] for key in last if key.startswith("val/")):
        known = {key: last.get(f"val/{name}/{key}") for key in ("loss", "accuracy")}
        measured = [f"{key} {value:.4f}" for key, value in known.items() if value is not None]
        if errors := told_errors(last, name):
            measured.append(f"error of {errors}")
        rows.append((f"validation {name}", "  ".join([*measured, f"at step {last['step']}"])))
    return rows


def _time(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Say which share of its time a run trained for its state, and what the rest went to, most first."""
    found = account(events)
    if not found or not found.wall_s:
        return []
    lost = sorted(((spent_s, cause) for cause, spent_s in found.seconds.items() if cause != "steps"), reverse=True)
    had = f"{found.ettr_without_queue:.1%} of the time with devices"
    return [
        ("effective", f"{found.ettr:.1%} of {_short(found.wall_s)} (ETTR); {had}"),
        ("lost", ", ".join(f"{CAUSES[cause]} {_short(spent_s)}" for spent_s, cause in lost if spent_s >= 0.5)),
    ]


def _slow(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Say which ranks the others had to wait for since the last start, each once, by what was said of it last."""
    last = {(event["rank"], event["on"]): event for event in events if event["event"] == "slow"}
    told = [
        f"rank {one['rank']} (node {one['node']}) by {one['longer']:.0%} on {one['on']}, at step {one['step']}"
        for one in last.values()
    ]
    return [("slow", "; ".join(told))] if told else []


def _checkpoints(folder: Path, verifies: bool) -> list[tuple[str, ...]]:
    """Give a row for each checkpoint, oldest first, then for those being written and those set aside."""
    look_at = damage if verifies else plain_damage
    found = {}
    for path in saved_checkpoints(folder):
        reason = look_at(path) or wrong_name(path)
        found[path] = f"damaged: {reason}" if reason else _WHOLE if (path / MANIFEST).exists() else "without a manifest"
    found |= dict.fromkeys(unfinished_folders(folder), "being written, or left unfinished")
    found |= dict.fromkeys(folder.glob("*.damaged*"), "set aside")
    rows: list[tuple[str, ...]] = []
    best = best_checkpoint(folder.parent)
    for path, state in found.items():
        if best and path == best.path:
            state = f"{state}, best: {best.metric} {best.value:.4f}"
        size = 0
        saved = 0.0
        with suppress(OSError):  # a run that goes on renames and removes files
            stats = [file.stat() for file in path.rglob("*") if file.is_file()]
            size = sum(stat.st_size for stat in stats)
            saved = max((stat.st_mtime for stat in stats), default=0.0)
        rows.append((path.name, state, f"{size / 1e9:.3f}", f"{_short(time.time() - saved)} ago"))
    return rows


def _short(seconds: float) -> str:
    return str(timedelta(seconds=max(0, round(seconds))))

"""What befalls a run: while it lies there, while it cannot start, while it goes on, or as its end.

Each gives what has to name it: a regular expression, or None where nobody is left who could.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.fault_place import Fault, Place, PostponedError
from benchmarks.forked_runs import Forked
from nemo_bt.training.callbacks.slow_ranks import FEWEST_STEPS
from tests.support.runs import metrics

STOPPED_S = 0.7
_FILLED_S = 60.0
_SLOW_S = 60.0


def change_bytes(file: Path, how: str, draw: random.Random) -> None:
    """Flip a bit of a file, cut it, or have zeros at its end, as a loss of power leaves them; or remove it."""
    content = bytearray(file.read_bytes())
    before = bytes(content)
    at = draw.randrange(len(content))
    if how == "lost":
        file.unlink()
        return
    if how == "bit":
        content[at] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del content[at:]
    else:
        content[at:] = bytes(len(content) - at)
    if bytes(content) == before:  # there were zeros
        content[at] ^= 1
    file.write_bytes(content)


def damage_checkpoint(place: Place, fault: Fault, how: str) -> str:
    """Change a file of the newest whole checkpoint. Give what names it."""
    if len(place.whole) < 2:
        raise PostponedError
    draw = fault.draw()
    checkpoint = place.whole[-1]
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    weights = [path for path in files if path.suffix == ".distcp"]
    # without its manifest a checkpoint is one of an earlier version, and whole
    others = [path for path in files if path.suffix != ".distcp" and (how != "lost" or path.name != "manifest.json")]
    file = draw.choice(weights if draw.random() < 0.5 else others)
    change_bytes(file, how, draw)
    place.damaged.add(checkpoint)
    return rf"{re.escape(checkpoint.name)} is damaged: "


def tear_log(place: Place, fault: Fault) -> str | None:
    """Cut metrics.jsonl or events.jsonl within its last line, or leave zeros there."""
    draw = fault.draw()
    file = place.log_dir / draw.choice(["metrics.jsonl", "events.jsonl"])
    if not file.exists() or not place.whole:
        raise PostponedError
    content = file.read_bytes()
    # the last line is of a step after the newest checkpoint, or the end of another that follows it
    with file.open("ab") as opened:
        opened.write(content.splitlines(keepends=True)[-1][: draw.randrange(1, 20)])
        opened.write(bytes(draw.choice([0, 50])))
    return None


def change_cache(place: Place, fault: Fault, how: str) -> str | None:
    """Change a file of the tokenised data."""
    draw = fault.draw()
    found = [path for path in place.cache.rglob("*") if path.parent.name != "digests" and path.stat().st_size]
    files = sorted(path for path in found if path.is_file() and path.suffix != ".lock")
    if not files:
        raise PostponedError
    change_bytes(draw.choice(files), how, draw)
    return "it is made again"


def lose_cache(place: Place, fault: Fault) -> None:
    """Remove all tokenised data."""
    shutil.rmtree(place.cache, ignore_errors=True)


@contextmanager
def lost_data(place: Place, fault: Fault) -> Iterator[str]:
    """Move the training set away; it is back afterwards."""
    aside = place.data.with_suffix(".away")
    place.data.rename(aside)
    yield re.escape(str(place.data))
    aside.rename(place.data)


@contextmanager
def changed_data(place: Place, fault: Fault) -> Iterator[str]:
    """Put another file in the place of the training set; what is tokenised of it does not stay."""
    before = set(place.cache.iterdir()) if place.cache.exists() else set()
    aside = place.data.with_suffix(".away")
    place.data.rename(aside)
    shutil.copy(place.disk.folder / "train.parquet", place.data)
    yield "are not what they were when the run was started"
    aside.replace(place.data)
    for made in set(place.cache.iterdir()) - before:
        shutil.rmtree(made) if made.is_dir() else made.unlink()


@contextmanager
def read_only_disk(place: Place, fault: Fault) -> Iterator[str]:
    place.disk.refuse_writes()
    yield "[Rr]ead-only file system"
    place.disk.mend()


@contextmanager
def full_disk_at_start(place: Place, fault: Fault) -> Iterator[str]:
    place.disk.leave(0)
    yield "No space left on device"
    place.disk.mend()


def fill_disk(place: Place, fault: Fault, process: Forked) -> str:
    """Take all room, and what becomes free, until the run has ended."""
    place.disk.leave(0)
    deadline_s = time.monotonic() + _FILLED_S
    while process.poll() is None and time.monotonic() < deadline_s:
        place.disk.fill()
        time.sleep(0.02)
    return "No space left on device"


def turn_read_only(place: Place, fault: Fault, process: Forked) -> str:
    """Have each file that is opened from now on refuse to be written, as when a disk is mounted anew after errors."""
    place.disk.turn_read_only()
    return "[Rr]ead-only file system"


def stop_and_go_on(place: Place, fault: Fault, process: Forked) -> None:
    """Stop a process of the run for a while."""
    family = process.family()
    with suppress(ProcessLookupError, IndexError):
        victim = fault.draw().choice(family).pid
        os.kill(victim, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(victim, signal.SIGCONT)


def _last_step(place: Place) -> float:
    return max(metrics(place.log_dir, "step"), default=0)


def slow_rank(place: Place, fault: Fault, process: Forked) -> str | None:
    """Have a rank run half of the time until it is named, or for as long as that may take; then ask the run to end.

    A run that ended by itself before two of the windows that are compared had too few steps left to tell.
    """
    before = _last_step(place)
    named = rf"rank {fault.rank} \(node \S+\) takes \d+% longer than its peers"
    for victim in place.ranks(process)[fault.rank : fault.rank + 1]:
        deadline_s = time.monotonic() + _SLOW_S
        with suppress(ProcessLookupError):
            while process.poll() is None and time.monotonic() < deadline_s and not re.search(named, place.said()):
                os.kill(victim.pid, signal.SIGSTOP)
                time.sleep(0.02)
                os.kill(victim.pid, signal.SIGCONT)
                time.sleep(0.02)
    is_over = process.poll() is not None and _last_step(place) - before < 2 * FEWEST_STEPS
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    return named if place.has_peers and not is_over else None  # who works on the same pairs waits in each product


def clock_jump(place: Place, fault: Fault, process: Forked) -> None:
    """Set the clock, forwards or backwards, by seconds to years."""
    draw = fault.draw()
    place.clock.jump(int(draw.choice([-1, 1]) * 10 ** draw.uniform(0, 8.5)))


def data_away(place: Place, fault: Fault, process: Forked) -> None:
    """Take the training set away for a moment."""
    with lost_data(place, fault):
        time.sleep(0.3)


def cache_away(place: Place, fault: Fault, process: Forked) -> None:
    lose_cache(place, fault)


def cut_cache(place: Place, fault: Fault, process: Forked) -> str | None:
    """Cut the token ids that the run has mapped: the next access ends it."""
    files = list(place.cache.rglob("tokens.arrow"))
    if not files:
        raise PostponedError
    for file in files:
        os.truncate(file, 0)
    return "SIGBUS" if place.num_ranks > 1 else None


def kill_rank(place: Place, fault: Fault, process: Forked) -> str | None:
    ranks = place.ranks(process)
    if not ranks:  # it has started none yet
        return kill_all(place, fault, process)
    with suppress(ProcessLookupError):
        os.kill(ranks[fault.rank % len(ranks)].pid, signal.SIGKILL)
    return r"rank \d+ was ended by SIGKILL" if place.num_ranks > 1 else None


def kill_all(place: Place, fault: Fault, process: Forked) -> None:
    for victim in process.family():
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)


def ask(place: Place, fault: Fault, process: Forked) -> str | None:
    """Ask the run to end, as a batch system does."""
    os.kill(process.pid, signal.SIGTERM)
    return None if fault.moment == "start-up" else "SIGTERM"


def stop_for_good(place: Place, fault: Fault, process: Forked) -> str:
    """Stop a rank, and never let it go on."""
    ranks = place.ranks(process)
    if len(ranks) < 2:
        raise PostponedError
    os.kill(ranks[fault.rank].pid, signal.SIGSTOP)
    return rf"rank {fault.rank}\b"

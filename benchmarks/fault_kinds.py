"""What can befall a run: while it lies there, while it goes on, or as its end; and what has to name each kind."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from benchmarks.forked_runs import Clock, Disk, Forked
from nemo_bt.checkpoint.find import saved_checkpoints

STOPPED_S = 0.7


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        kind: one of `KINDS`.
        moment: of a kill or a request: start-up, step, save or prune.
        rank: whom it befalls.
        seed: of everything else that is drawn: delays, files, bytes, bits.
    """

    kind: str
    moment: str
    rank: int
    seed: int

    def draw(self) -> random.Random:
        """Give numbers that are this fault's own."""
        return random.Random(self.seed)


@dataclass
class Place:
    """Where a run lives, and what is known of it.

    Args:
        damaged: checkpoints that a fault has changed.
    """

    disk: Disk
    log_dir: Path
    num_ranks: int
    clock: Clock
    damaged: set[Path]

    @property
    def data(self) -> Path:
        """The training set, which is this run's alone."""
        return self.disk.folder / "random.parquet"

    @property
    def cache(self) -> Path:
        """What it is tokenised into, which is this run's alone."""
        return self.disk.folder / "cache"

    @property
    def whole(self) -> list[Path]:
        """Checkpoints that no fault has changed, oldest first."""
        saved = saved_checkpoints(self.log_dir / "checkpoints")
        return [path for path in saved if path not in self.damaged]

    def ranks(self, process: Forked) -> list[Any]:
        """Give the processes that compute; the command itself where there is one rank."""
        family = process.family()
        return family[:1] if self.num_ranks == 1 else family[0].children() if family else []


class PostponedError(Exception):
    """The run is not where this fault could befall it: it comes later."""


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
    """Leave less room than a checkpoint takes."""
    place.disk.leave(fault.draw().randrange(0, 200_000))
    return "No space left on device"


def stop_and_go_on(place: Place, fault: Fault, process: Forked) -> None:
    """Stop a process of the run for a while."""
    family = process.family()
    with suppress(ProcessLookupError, IndexError):
        victim = fault.draw().choice(family).pid
        os.kill(victim, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(victim, signal.SIGCONT)


def slow_rank(place: Place, fault: Fault, process: Forked) -> str:
    """Have a rank run half of the time, for two seconds."""
    for victim in place.ranks(process)[fault.rank : fault.rank + 1]:
        with suppress(ProcessLookupError):
            for _ in range(20):
                os.kill(victim.pid, signal.SIGSTOP)
                time.sleep(0.05)
                os.kill(victim.pid, signal.SIGCONT)
                time.sleep(0.05)
    return rf"rank {fault.rank}\b.*slow"


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


class Misbehaves(pl.Callback):
    """Has a rank hang, or flips a bit of its memory, in its third step.

    Args:
        what: hang, weight or gradient.
    """

    def __init__(self, what: str, fault: Fault) -> None:
        self.what = what
        self.fault = fault
        self.steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Stand before Megatron's optimizer, behind everything that has looked at gradients."""
        optimizer = trainer.optimizers[0].mcore_optimizer
        step = optimizer.step_with_ready_grads
        parameters = [one for one in pl_module.parameters() if one.requires_grad]

        def misbehaving() -> bool:
            self.steps += 1
            if self.steps == 3 and torch.distributed.get_rank() == self.fault.rank:
                self._misbehave(parameters)
            return step()

        optimizer.step_with_ready_grads = misbehaving

    def _misbehave(self, parameters: list[Any]) -> None:
        draw = self.fault.draw()
        if self.what == "hang":
            time.sleep(600)
        parameter = draw.choice(parameters)
        numbers = parameter.data if self.what == "weight" else parameter.main_grad
        at, bit = draw.randrange(numbers.numel()), draw.randrange(20, 31)
        numbers.view(torch.int32).view(-1)[at] ^= 1 << bit


class Kind(NamedTuple):
    """A kind of faults.

    Args:
        when: before (the run does not run), start (it cannot start meanwhile), during, ending, or silent: a run that
            nobody ends goes wrong after it.
        act: does it, and gives what names it: a regular expression, or None where nobody is left who could.
        inside: for what happens in a rank: what `Misbehaves` does, and what names it.
        needs: mounts or clock.
        fewest_ranks: of a run that it can befall.
        at_start: whether it can befall a run that starts up. There torch alone bounds how long ranks wait for one: 30
            minutes.
    """

    when: str
    act: Callable[..., Any] | None = None
    inside: tuple[str, str] | None = None
    needs: str | None = None
    fewest_ranks: int = 1
    at_start: bool = True


def _damage(how: str) -> Kind:
    return Kind("before", lambda place, fault: damage_checkpoint(place, fault, how))


def _cache(how: str) -> Kind:
    return Kind("before", lambda place, fault: change_cache(place, fault, how))


KINDS = {
    "a rank is killed": Kind("ending", kill_rank),
    "all processes are killed": Kind("ending", kill_all),
    "SIGTERM": Kind("ending", ask),
    "a rank hangs": Kind("ending", inside=("hang", r"rank {rank} did nothing for")),
    "a rank is stopped for good": Kind("ending", stop_for_good, fewest_ranks=2, at_start=False),
    "full disk": Kind("ending", fill_disk, needs="mounts"),
    "cached data cut while mapped": Kind("ending", cut_cache),
    "bit of a weight": Kind("silent", inside=("weight", r"rank {rank}\b")),
    "bit of a gradient": Kind("silent", inside=("gradient", r"rank {rank}\b")),
    "stopped and continued": Kind("during", stop_and_go_on),
    "slow rank": Kind("during", slow_rank, fewest_ranks=2),
    "clock jump": Kind("during", clock_jump, needs="clock"),
    "data lost while running": Kind("during", data_away),
    "cache lost while running": Kind("during", cache_away),
    "bit of a checkpoint's file": _damage("bit"),
    "checkpoint's file cut": _damage("cut"),
    "checkpoint's file ends in zeros": _damage("zeros"),
    "checkpoint's file lost": _damage("lost"),
    "torn log": Kind("before", tear_log),
    "bit of the cache": _cache("bit"),
    "cache cut": _cache("cut"),
    "cache ends in zeros": _cache("zeros"),
    "cache's file lost": _cache("lost"),
    "data lost": Kind("start", lost_data),
    "data changed": Kind("start", changed_data),
    "read-only disk": Kind("start", read_only_disk, needs="mounts"),
    "full disk at start": Kind("start", full_disk_at_start, needs="mounts"),
}

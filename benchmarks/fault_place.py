"""A fault as it is drawn, and the place of the run that it befalls."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fault_world import Clock, Disk
from benchmarks.forked_runs import Forked
from nemo_bt.checkpoint.find import saved_checkpoints


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
        layout: name of its layout.
        output: file of what the user sees.
        damaged: checkpoints that a fault has changed.
    """

    disk: Disk
    log_dir: Path
    layout: str
    output: Path
    clock: Clock
    damaged: set[Path]
    events_bytes: int = 0

    @property
    def num_ranks(self) -> int:
        return num_ranks_of(self.layout)

    @property
    def has_peers(self) -> bool:
        """Whether another rank does the same work on other pairs, and waits for this one after it alone."""
        return self.layout.startswith("DP")

    def hear_from_now(self) -> None:
        """Forget what an earlier start said."""
        self.output.write_text("")
        self.events_bytes = len(self._events())

    def said(self) -> str:
        """Give what the user has seen of this start, and its lines of events.jsonl."""
        return self.output.read_text(errors="replace") + self._events()[self.events_bytes :].decode(errors="replace")

    def _events(self) -> bytes:
        events = self.log_dir / "events.jsonl"
        return events.read_bytes() if events.exists() else b""

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


def num_ranks_of(layout: str) -> int:
    return 1 if layout == "one rank" else 2


class PostponedError(Exception):
    """The run is not where this fault could befall it: it comes later."""

"""The end of a run in which nothing happens any more: the rank that hangs says where, the others that they waited."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from nemo_bt.observability.events import append_event
from nemo_bt.observability.failure import stack_of, waits_in
from nemo_bt.observability.terminal import Terminal

_GRACE_S = 5.0
"""Time that ranks which wait for another give it to speak first."""


class Watchdog(pl.Callback):
    """A thread that looks at when this rank last did a step, a batch of a validation, or a save.

    A process that is stopped as a whole says nothing; the others do. After `timeout_s` without any of these the process
    ends, with status 1.
    """

    def __init__(self, timeout_s: float, rank: int, log_dir: Path, terminal: Terminal) -> None:
        self.timeout_s = timeout_s
        self.rank = rank
        self.log_dir = log_dir
        self.terminal = terminal
        self._last_s = 0.0
        self._ended = threading.Event()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch."""
        self._beat()
        threading.Thread(target=self._watch, daemon=True).start()

    def _beat(self, *_: Any, **__: Any) -> None:
        self._last_s = time.monotonic()

    on_train_batch_start = on_train_batch_end = on_validation_batch_end = on_validation_end = on_train_end = _beat
    on_save_checkpoint = _beat

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop watching, however training ended."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self.timeout_s / 4)):
            if time.monotonic() - self._last_s > self.timeout_s:
                self._end()

    def _end(self) -> None:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        of_run = next((line for line in traceback.extract_stack(frame)[::-1] if "nemo_bt" in line.filename), None)
        where = f"{of_run.filename}:{of_run.lineno}" if of_run else "a library"
        if waits_in(stack_of(frame)):
            time.sleep(_GRACE_S)
            message = f"rank {self.rank} waited {self.timeout_s:g} s for other ranks, at {where}"
            self.terminal.error(message)
        else:
            stack = "".join(traceback.format_stack(frame))
            message = f"rank {self.rank} did nothing for {self.timeout_s:g} s (trainer.hang_timeout_s), at {where}"
            self.terminal.error(f"{stack}{message}")
        # The disk may be what hangs.
        facts = {"rank": self.rank, "error": message}
        threading.Thread(target=append_event, args=(self.log_dir, "failed"), kwargs=facts, daemon=True).start()
        time.sleep(1.0)
        os._exit(1)

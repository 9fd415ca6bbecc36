"""Saves of the model as a NeMo-2 directory, `context/` and `weights/`, which gets its name when it is whole."""

from __future__ import annotations

import os
import pickle
import queue
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import megatron.core.dist_checkpointing.strategies.filesystem_async as megatron_writer
import torch
from nemo.lightning.io.pl import TrainerContext
from nemo.utils.callbacks.dist_ckpt_io import AsyncFinalizableCheckpointIO

from nemo_bt.checkpoint.manifest import facts_of, files_of, write_manifest
from nemo_bt.checkpoint.retention import superseded
from nemo_bt.config.model import Settings
from nemo_bt.files import remove, remove_folder, unfinished_folder
from nemo_bt.observability.time_spent import TimeSpent
from nemo_bt.pretrained.adapters import Adapters
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.training.callbacks.validation import Validation

_STEP_OF_SCHEDULE = {"last_epoch", "_step_count"}
"""Attributes that torch's schedulers count; the others in their state are settings, or follow from them."""


class CheckpointCallback(pl.Callback):
    """Save every n steps and at the end of training, and keep the newest few.

    A save that is still being written when a rank fails is lost. The one before stays: it is only deleted afterwards.
    With `async_save` each rank forks a process that writes while training goes on; NeMo's AsyncFinalizerCallback, which
    its strategy adds, calls `_finish` at the end of a later step or of training.
    """

    def __init__(
        self, folder: Path, settings: Settings, validation: Validation, adapters: Adapters | None, spent: TimeSpent
    ) -> None:
        self.folder = folder
        self.spent = spent
        self.name = settings.exp_manager.name
        self.every_n_steps = settings.exp_manager.checkpoint_callback_params.every_n_train_steps
        self.settings = settings
        self.validation = validation
        self.adapters = adapters
        self._last_saved_step: int | None = None
        # Megatron's own queue is a process, started by spawn: it would import torch and the main module again, and
        # outlive a rank that is killed (filesystem_async.py:51).
        megatron_writer._results_queue = ResultsQueue()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue the schedule at its step, by the settings of now: a run may get more steps."""
        for state in checkpoint["lr_schedulers"]:
            for name in set(state) - _STEP_OF_SCHEDULE:
                del state[name]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that a resumed run has its first step saved already, and set the schedule's learning rate."""
        self._last_saved_step = trainer.global_step
        for config in trainer.lr_scheduler_configs:
            for group, rate in zip(config.scheduler.optimizer.param_groups, config.scheduler.get_lr(), strict=True):
                group["lr"] = rate

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between steps: only here do Lightning's counters agree that the step before is complete."""
        if trainer.should_stop or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the weights that training ended with."""
        self._save(trainer)
        io: Any = trainer.strategy.checkpoint_io
        if isinstance(io, AsyncFinalizableCheckpointIO):
            with self.spent.within("save"):
                io.maybe_finalize_save_checkpoint(blocking=True)

    def _save(self, trainer: Any) -> None:
        step = trainer.global_step
        if step in (self._last_saved_step, self.validation.sampler.skipped_steps):  # or no step was taken yet
            return
        self._last_saved_step = step
        with self.spent.within("save"):
            self._write(trainer, step)

    def _write(self, trainer: Any, step: int) -> None:
        """Write a checkpoint, or begin to, with `async_save`."""
        begun = {"step": step, "begun_s": time.monotonic(), "steps_s": self.spent.seconds().get("steps", 0.0)}
        whole = self.folder / f"{self.name}-step{step}.nemo"
        unfinished = unfinished_folder(whole)
        if trainer.is_global_zero and os.path.lexists(unfinished):
            remove(unfinished)
        trainer.strategy.barrier("before save")
        io = trainer.strategy.checkpoint_io
        in_background = isinstance(io, AsyncFinalizableCheckpointIO)
        if in_background:
            io.maybe_finalize_save_checkpoint(blocking=True)  # one save at a time
        trainer.save_checkpoint(
            unfinished, storage_options={"finalize_fn": partial(self._finish, trainer, whole, begun)}
        )
        if trainer.is_global_zero:
            TrainerContext.from_trainer(trainer).io_dump(unfinished / "context", yaml_attrs=["model"])
            facts = {"step": step, "validation": self.validation.record, "settings": asdict(self.settings)}
            write_facts(unfinished / "context", trainer.lightning_module.config.hf_config, facts)
            if self.adapters:
                self.adapters.write(unfinished / "context")
        if not in_background:
            self._finish(trainer, whole, begun)
            trainer.strategy.barrier("after save")

    def _finish(self, trainer: pl.Trainer, whole: Path, begun: dict[str, Any]) -> None:
        """Complete a checkpoint, and tell how long it took since it was `begun`."""
        with self.spent.within("save"):
            self._complete(trainer, whole)
        took_s = round(time.monotonic() - begun["begun_s"], 3)
        self.spent.tell("saved", step=begun["step"], steps_s=begun["steps_s"], took_s=took_s)

    def _complete(self, trainer: pl.Trainer, whole: Path) -> None:
        """Give the checkpoint its manifest and its name once every rank has written its part, and remove old ones.

        Each rank reads a share of the files once more, which are still in the page cache.
        """
        unfinished = unfinished_folder(whole)
        trainer.strategy.barrier("before manifest")
        shares: list[dict[str, Any]] = [{}] * trainer.world_size
        names = [files_of(unfinished)]
        torch.distributed.broadcast_object_list(names)  # a file server may show other ranks fewer
        own = facts_of(unfinished, names[0][trainer.global_rank :: trainer.world_size])
        torch.distributed.all_gather_object(shares, own)
        if trainer.is_global_zero:
            write_manifest(unfinished, {name: facts for share in shares for name, facts in share.items()})
            unfinished.rename(whole)
            for old in superseded(self.folder, self.settings.exp_manager.checkpoint_callback_params):
                remove_folder(old)


class ResultsQueue:
    """A queue of what Megatron's writers report, from this process or its forks: a file that all have open."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (open as long as the run)
        self.read_bytes = 0

    def put(self, results: Any) -> None:
        """Append one report."""
        self.file.seek(0, os.SEEK_END)
        self.file.write(pickle.dumps(results))

    def get_nowait(self) -> Any:
        """Take the oldest report that was not taken yet.

        Raises:
            queue.Empty: there is none.
        """
        self.file.seek(self.read_bytes)
        try:
            results = pickle.load(self.file)
        except (EOFError, pickle.UnpicklingError):  # the second: a full disk cut it short
            raise queue.Empty from None
        self.read_bytes = self.file.tell()
        return results

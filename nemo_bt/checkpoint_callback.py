"""Saves the model as a NeMo-2 directory, `context/` and `weights/`: written beside, renamed when whole."""

from __future__ import annotations

import queue
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import megatron.core.dist_checkpointing.strategies.filesystem_async as megatron_writer
from nemo.lightning.io.pl import TrainerContext

from nemo_bt.checkpoint_facts import write_facts
from nemo_bt.checkpoints import saved_checkpoints
from nemo_bt.monitor import Monitor
from nemo_bt.settings import Settings


class CheckpointCallback(pl.Callback):
    """Save every n steps and at the end of training, and keep the newest few."""

    def __init__(self, folder: Path, settings: Settings, monitor: Monitor) -> None:
        params = settings.exp_manager.checkpoint_callback_params
        self.folder, self.name = folder, settings.exp_manager.name
        self.every_n_steps, self.save_last_n = params.every_n_train_steps, params.save_last_n
        self.settings, self.monitor = settings, monitor
        self._last_saved_step: int | None = None
        # Megatron would start a process by spawn for this queue, which imports torch and the main module again, and
        # outlives a rank that is killed. It is written and read by this process (filesystem_async.py:51).
        megatron_writer._results_queue = queue.Queue()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has its first step saved already."""
        self._last_saved_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between steps: only here do Lightning's counters agree that the step before is complete."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what training ended with."""
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        if step == self._last_saved_step:
            return
        self._last_saved_step = step
        whole = self.folder / f"{self.name}-step{step}.nemo"
        unfinished = self.folder / f".{whole.name}.unfinished"
        if trainer.is_global_zero and unfinished.exists():
            shutil.rmtree(unfinished)
        trainer.strategy.barrier("before save")
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            TrainerContext.from_trainer(trainer).io_dump(unfinished / "context", yaml_attrs=["model"])
            facts = {"step": step, "validation": self.monitor.validation_record, "settings": asdict(self.settings)}
            write_facts(unfinished / "context", trainer.lightning_module.config.hf_config, facts)
            unfinished.rename(whole)
            for old in saved_checkpoints(self.folder)[: -self.save_last_n] if self.save_last_n else []:
                shutil.rmtree(old.rename(self.folder / f".{old.name}.unfinished"))  # never half there under its name
        trainer.strategy.barrier("after save")

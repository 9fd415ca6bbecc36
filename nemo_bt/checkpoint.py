"""Checkpoints as NeMo-2 directories: `context/` and `weights/`, written beside and renamed when whole.

`<log dir>/checkpoints/<name>-step<n>.nemo` is complete if it exists. The finding functions are pure and run before
NeMo is imported; the callback imports NeMo when it saves.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from nemo_bt.errors import UserError

_NAME = re.compile(r"-step(\d+)\.nemo$")


def saved_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in `folder`, oldest step first."""
    found = {path: match for path in folder.glob("*.nemo") if (match := _NAME.search(path.name))}
    return sorted(found, key=lambda path: int(found[path][1]))


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that a checkpoint has behind it; `run-step40.nemo` has 40."""
    match = _NAME.search(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def checkpoint_to_resume(folder: Path, resume_if_exists: bool) -> Path | None:
    """The newest checkpoint to continue from, or None for a fresh run.

    Raises:
        UserError: there are checkpoints, but the run is not to resume and would write over them.
    """
    saved = saved_checkpoints(folder)
    if saved and not resume_if_exists:
        raise UserError(
            f"{folder} holds checkpoints up to step {step_of(saved[-1])}. Set exp_manager.resume_if_exists=true to "
            "continue, or another exp_manager.explicit_log_dir to start again."
        )
    return saved[-1] if saved else None


class CheckpointCallback(pl.Callback):
    """Save every n steps and at the end of training, and keep the newest few."""

    def __init__(self, folder: Path, name: str, every_n_steps: int, save_last_n: int) -> None:
        self.folder, self.name = folder, name
        self.every_n_steps, self.save_last_n = every_n_steps, save_last_n
        self._last_saved_step: int | None = None

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
        from nemo.lightning.io.pl import TrainerContext

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
            if whole.exists():
                shutil.rmtree(whole)
            unfinished.rename(whole)
            for old in saved_checkpoints(self.folder)[: -self.save_last_n] if self.save_last_n else []:
                shutil.rmtree(old)
        trainer.strategy.barrier("after save")

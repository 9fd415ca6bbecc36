"""The callback that ends a run between two steps when any rank was asked to."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping

from nemo_bt.launching.signals import StopRequest, reason_of

WAITS_FOR_OTHERS = True
"""On a GPU a rank reads here what an all-reduce left there (nemo_bt.observability.failure)."""


class GracefulStop(pl.Callback):
    """Ranks agree before every step and every batch of a validation: one all-reduce of a number.

    Put before the callback that saves, which does so when `trainer.should_stop` is set. A validation that is broken off
    counts for nothing; the resumed run makes it again.

    Attributes:
        reason: what ended the run; None while nothing has.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request = request
        self.reason: str | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has put handlers of its own in the place of ours."""
        self.request.listen(is_training=True)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """RewardModel then leaves the step out."""
        self._ask_all(trainer, pl_module)

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Break the validation off, except the last: behind it there is nothing to go on with.

        Raises:
            StopIteration: as Lightning's loop expects it.
        """
        if trainer.global_step == trainer.max_steps:
            return
        self._ask_all(trainer, pl_module)
        if self.reason:
            raise StopIteration

    def _ask_all(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        code = torch.tensor(self.request.code(), device=pl_module.device)
        torch.distributed.all_reduce(code, torch.distributed.ReduceOp.MAX)
        if code.item():
            self.reason, trainer.should_stop = reason_of(int(code.item())), True


class BestValidation(EarlyStopping):
    """Lightning's, with the patience of the settings; a validation that was broken off does not reach it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What it has seen."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count validations that brought nothing better."""
        if not trainer.should_stop:
            super().on_validation_end(trainer, pl_module)

"""The callback that ends a run between two steps when any rank was asked to."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping

from nemo_bt.launching.signals import StopRequest, reason_of

WAITS_FOR_OTHERS = True
"""A rank waits here for an all-reduce, whose result it reads from the GPU (nemo_bt.observability.failure)."""


class GracefulStop(pl.Callback):
    """Has all ranks agree, before every step and every batch of a validation: one all-reduce of a number.

    It comes before the callback that saves, which does so when `trainer.should_stop` is set. A validation that is
    broken off counts for nothing; the resumed run makes it again.

    Args:
        request: what asks.
        answer_to: file descriptor of the user's stderr, on the rank that answers.

    Attributes:
        reason: what ended the run; None while nothing has.
    """

    def __init__(self, request: StopRequest, answer_to: int | None) -> None:
        self.request = request
        self.answer_to = answer_to
        self.reason: str | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over once more: Lightning has put its own handlers in the place of ours."""
        self.request.listen(is_training=True, answer_to=self.answer_to)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Ask all ranks; if one was asked to end, RewardModel leaves the step out."""
        self._ask_all(trainer, pl_module)

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Break the validation off, unless it is the last: behind that there is nothing to go on with.

        Raises:
            StopIteration: Lightning's loop ends by it.
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
            self.reason = reason_of(int(code.item()))
            trainer.should_stop = True


class BestValidation(EarlyStopping):
    """Lightning's early stopping, with the patience of the settings; broken-off validations do not count."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what it had seen, but not its patience."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count validations that brought nothing better."""
        if not trainer.should_stop:
            super().on_validation_end(trainer, pl_module)

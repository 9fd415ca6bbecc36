"""The callback that ends a run between two steps when any rank was asked to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from nemo_bt.launching.signals import StopRequest, reason_of

WAITS_FOR_OTHERS = True
"""A rank waits here for an all-reduce (nemo_bt.observability.failure)."""


class GracefulStop(pl.Callback):
    """Has all ranks agree, in every step and every batch of a validation: one all-reduce of a number.

    Between two steps no rank waits for its GPU, so that the next step's work is there when a step's is done: a step
    asks behind the norm of its gradients, for which the host waits in any case, and hears the answer before the next
    step, while weights are updated.

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
        self._answer: Callable[[], int] = lambda: 0

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Take the signals over once more: Lightning has put its own handlers in the place of ours."""
        self.request.listen(is_training=True, answer_to=self.answer_to)
        optimizer = trainer.optimizers[0].mcore_optimizer
        optimizer.step_with_ready_grads = self._asking(optimizer.step_with_ready_grads, pl_module)
        self._ask(pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Hear the ranks; if one was asked to end, RewardModel leaves the step out."""
        self._hear(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Break the validation off, unless it is the last: behind that there is nothing to go on with.

        Raises:
            StopIteration: Lightning's loop ends by it.
        """
        if trainer.global_step == trainer.max_steps:
            return
        self._ask(pl_module)
        self._hear(trainer)
        if self.reason:
            raise StopIteration

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask once more: the next step hears it."""
        self._ask(pl_module)

    def _asking(self, step: Callable[[], bool], pl_module: pl.LightningModule) -> Callable[[], bool]:
        def asking() -> bool:
            self._ask(pl_module)
            return step()

        return asking

    def _ask(self, pl_module: pl.LightningModule) -> None:
        code = torch.full((), self.request.code(), device=pl_module.device)
        torch.distributed.all_reduce(code, torch.distributed.ReduceOp.MAX)
        self._answer = on_host(code)

    def _hear(self, trainer: pl.Trainer) -> None:
        code = self._answer()
        if code:
            self.reason = reason_of(code)
            trainer.should_stop = True


def on_host(number: Tensor) -> Callable[[], int]:
    """Send a number to the host, and give a function that waits until it is there, and for nothing behind it."""
    if number.device.type == "cpu":
        return lambda: int(number)
    found = torch.empty((), dtype=number.dtype, pin_memory=True).copy_(number, non_blocking=True)
    is_there = torch.cuda.Event()
    is_there.record()

    def answer() -> int:
        is_there.synchronize()
        return int(found)

    return answer


class BestValidation(EarlyStopping):
    """Lightning's early stopping, with the patience of the settings; broken-off validations do not count."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what it had seen, but not its patience."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count validations that brought nothing better."""
        if not trainer.should_stop:
            super().on_validation_end(trainer, pl_module)

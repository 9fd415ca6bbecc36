"""Steps whose loss or gradient is not finite: every rank skips them alike, and the pairs to blame are named."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state

from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.steps.data_module import PairSampler

WAITS_FOR_OTHERS = True
"""A rank whose stack ends here waits for the others (nemo_bt.observability.failure)."""
_NAMED = 5
"""Pairs that a message names at most."""


class NonFiniteGuard(pl.Callback):
    """Keeps a step from the weights when the norm of its gradient is not finite.

    Megatron computes that norm over all gradients in every step, and has the same on every rank: none has to ask the
    others. A loss that is not finite makes the gradient so (nemo_bt.model.loss_reduction).

    Args:
        sampler: the sampler whose sums leave such a step out.
        most_in_a_row: skipped steps in a row after which the run stops.

    Attributes:
        in_a_row: steps that were skipped since the last one that counted.
    """

    def __init__(self, sampler: PairSampler, terminal: Terminal, most_in_a_row: int) -> None:
        self.sampler = sampler
        self.terminal = terminal
        self.most_in_a_row = most_in_a_row
        self._norm = 0.0
        self.in_a_row = 0

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Stand between Megatron's optimizer and its step."""
        optimizer = trainer.optimizers[0].mcore_optimizer
        optimizer.get_grad_norm = self._noting(optimizer.get_grad_norm)
        optimizer.step_with_ready_grads = self._guarding(optimizer.step_with_ready_grads)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Forget the losses of the step before."""
        pl_module.step_losses.clear()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step, and say which pairs are to blame if it was skipped.

        Raises:
            UserError: too many steps in a row were skipped.
        """
        is_finite = math.isfinite(self._norm)
        self.sampler.settle(is_finite)
        if is_finite:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        found: list[list[int]] = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(found, self._pairs_here(pl_module))
        pairs = sorted(number for numbers in found for number in numbers)
        shown = [trainer.datamodule.train.where(pair) for pair in pairs[:_NAMED]]
        named = "; ".join(shown) + (f" and {len(pairs) - len(shown)} more" if len(pairs) > len(shown) else "")
        of_pairs = f"the loss is not finite of {named}" if pairs else "every pair's loss is finite"
        message = f"step {trainer.global_step} skipped: gradient norm {self._norm}; {of_pairs}"
        self.terminal.line(message)
        if self.in_a_row == self.most_in_a_row:
            raise UserError(
                f"{message}. {self.in_a_row} steps in a row were skipped (trainer.max_nonfinite_steps). The weights "
                "are those before them: look at the pairs, lower model.optim.lr or start from an older checkpoint."
            )

    def _noting(self, get_grad_norm: Callable[[], float]) -> Callable[[], float]:
        def noting() -> float:
            self._norm = float(get_grad_norm())
            return self._norm

        return noting

    def _guarding(self, step_with_ready_grads: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: step_with_ready_grads() if math.isfinite(self._norm) else False

    def _pairs_here(self, pl_module: Any) -> list[int]:
        """Give the numbers of pairs whose loss is not finite; a rank that has another's losses gives none."""
        if parallel_state.get_tensor_model_parallel_rank() or parallel_state.get_context_parallel_rank():
            return []
        streams = self.sampler.last.streams if self.sampler.last else []
        return [
            number
            for stream, loss_P in zip(streams, pl_module.step_losses, strict=False)  # only one stage has losses
            for number in stream.number_P[~loss_P.isfinite().cpu()].tolist()
        ]

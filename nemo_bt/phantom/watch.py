"""Follows a run step by step: which part of it goes on, and what holds memory. Importing this file imports NeMo."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import lightning.pytorch as pl
import megatron.core.pipeline_parallel.schedules as schedules
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.messages import group_names
from nemo_bt.phantom.record import Section

_OF_OPTIMIZER = ("prepare_grads", "step_with_ready_grads", "step")


class _WritesNothing(TorchCheckpointIO):
    """Takes what a checkpoint would have."""

    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        """Write nothing."""


class Done(Exception):  # noqa: N818 - it is no error
    """All steps that were asked for are made."""


class Watch(pl.Callback):
    """Closes a section at the start of training, at the end of each step and behind a save, which ends the run.

    Attributes:
        sections: those that are closed.
    """

    def __init__(self, ledger: Ledger, num_steps: int) -> None:
        self.ledger = ledger
        self.num_steps = num_steps
        self.sections: list[Section] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name what the run has built."""
        self._name_holders(trainer)
        self.sections.append(self.ledger.close("build", group_names()))
        follow(trainer, self.ledger)
        self.ledger.phase = "load"

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step, whose data is there."""
        self.ledger.phase = "step"

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a step."""
        self._name_holders(trainer)
        self.ledger.keep()
        loaded: Any = trainer
        streams = [stream.tokens_1T.shape[1] for stream in loaded.datamodule.data_sampler.last.streams]
        self.sections.append(self.ledger.close(str(len(self.sections) - 1), group_names(), streams))
        if len(self.sections) > self.num_steps:
            self.ledger.phase = "save"
            loaded.strategy.checkpoint_io = _WritesNothing()
            loaded.save_checkpoint("nowhere", weights_only=True)  # the optimizer's state would fill the host
            self.sections.append(self.ledger.close("save", group_names()))
            raise Done
        self.ledger.phase = "load"

    def _name_holders(self, trainer: Any) -> None:
        """Tell the ledger what weights, gradients and the optimizer's state are, which a first step completes."""
        parts = [part.module for part in trainer.strategy.megatron_parallel]
        buffers = [buffer for part in parts for buffer in part.buffers + part.expert_parallel_buffers]
        whole = [buffer.param_data for buffer in buffers if buffer.param_data is not None]
        self.ledger.held_by("weights", [*(p for part in parts for p in _tensors_of(part)), *whole])
        self.ledger.held_by("gradients", (buffer.grad_data for buffer in buffers))
        self.ledger.held_by("optimizer", _state(trainer.optimizers[0].mcore_optimizer))


class HasPhase(Protocol):
    """What is told the part of a step that goes on."""

    phase: str


def follow(trainer: Any, told: HasPhase) -> None:
    """Have a run that starts tell when passes of micro-batches and the optimizer's step begin and end."""
    for name, phase in (("forward_step", "forward"), ("backward_step", "backward")):
        setattr(schedules, name, during(told, phase, getattr(schedules, name)))
    for one in _optimizers(trainer.optimizers[0].mcore_optimizer):
        for name in _OF_OPTIMIZER:
            if hasattr(one, name):
                setattr(one, name, during(told, "optimizer", getattr(one, name)))


def during(told: HasPhase, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function that runs as a part of a step."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        before, told.phase = told.phase, phase
        result = function(*args, **kwargs)
        told.phase = before  # what raises ends the run, in this phase
        return result

    return run


def _tensors_of(part: Any) -> Iterator[Tensor]:
    for parameter in part.parameters():
        data = getattr(parameter, "_data", None)
        yield parameter if data is None else data  # one in FP8 is no storage of its own


def _optimizers(optimizer: Any) -> list[Any]:
    return [optimizer, *getattr(optimizer, "chained_optimizers", [])]


def _state(optimizer: Any) -> Iterator[Tensor]:
    """Give moments, and main copies of weights."""
    for one in _optimizers(optimizer)[-len(_optimizers(optimizer)) + 1 :] or [optimizer]:
        inner = getattr(one, "optimizer", None)
        for of_parameter in inner.state.values() if inner is not None else ():
            yield from (value for value in of_parameter.values() if isinstance(value, Tensor))
        for name in ("fp32_from_float16_groups", "shard_fp32_from_float16_groups"):
            for group in getattr(one, name, None) or ():
                yield from (tensor for tensor in group if tensor is not None)

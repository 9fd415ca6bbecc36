"""Rewards of a run, step by step, as JSON. It is a callback of any run: of an ordinary one too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from nemo_bt.batching.stream import PairStream


class Rewards(pl.Callback):
    """Writes a list of steps, each a list of micro-batches.

    Each has the `tokens` of its stream, [T], its `segments`, [C, 5], and `sides`, [P, K], as `PairStream` has them, and
    the `rewards` of its continuations, [C].
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.steps: list[list[dict[str, Any]]] = []
        self._rewards: list[Any] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what comes out of the model."""
        strategy: Any = trainer.strategy
        for part in strategy.megatron_parallel:
            while not isinstance(part, GPTModel):
                part = part.module
            part.register_forward_hook(self._note)

    def _note(self, module: Any, args: Any, reward_C: Tensor) -> None:
        if module.training:
            self._rewards.append(reward_C.detach().tolist())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what there is so far."""
        loaded: Any = trainer
        streams = loaded.datamodule.data_sampler.last.streams
        self.steps.append([_seen(*both) for both in zip(streams, self._rewards, strict=True)])
        self._rewards = []
        self.file.write_text(json.dumps(self.steps))


def _seen(stream: PairStream, rewards: Any) -> dict[str, Any]:
    found = {"tokens": stream.tokens_1T[0], "segments": stream.segments_C5, "sides": stream.sides_PK}
    return {name: tensor.tolist() for name, tensor in found.items()} | {"rewards": rewards}

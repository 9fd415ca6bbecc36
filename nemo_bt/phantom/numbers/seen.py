"""What a run computes, in files: rewards of every step, gradients of the first. Any run may have it as a callback.

It serves comparisons of small models: everything is written as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from nemo_bt.batching.stream import PairStream


class Seen(pl.Callback):
    """Writes to a folder.

    rewards.json is a list of steps, each a list of micro-batches. Each has the `tokens` of its stream, [T], its
    `segments`, [C, 5], and `sides`, [P, K], as `PairStream` has them, and the `rewards` of its continuations, [C].
    gradients.pt has the gradients of the first step by the names of the parameters, as the optimizer got them: clipped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[list[dict[str, Any]]] = []
        self._rewards: list[Any] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what comes out of the model."""
        for part in _models(trainer):
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
        (self.folder / "rewards.json").write_text(json.dumps(self.steps))
        if len(self.steps) == 1:
            named = [named for part in _models(trainer) for named in part.named_parameters()]
            gradients = {name: parameter.main_grad.float().cpu().clone() for name, parameter in named}
            torch.save(gradients, self.folder / "gradients.pt")


def _models(trainer: Any) -> list[Any]:
    """Give the parts of the model that this rank has, without what NeMo and Megatron wrap around them."""
    found = []
    for part in trainer.strategy.megatron_parallel:
        while not isinstance(part, GPTModel):
            part = part.module
        found.append(part)
    return found


def _seen(stream: PairStream, rewards: Any) -> dict[str, Any]:
    found = {"tokens": stream.tokens_1T[0], "segments": stream.segments_C5, "sides": stream.sides_PK}
    return {name: tensor.tolist() for name, tensor in found.items()} | {"rewards": rewards}

"""The NeMo model: a GPT configuration of NeMo with a reward head, trained on pair streams.

Shape suffixes: C = continuations, P = comparisons (pairs or lists), A = attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import fiddle as fdl
import nemo.collections.llm.gpt.model.base as nemo_gpt
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.transformer.moe import moe_layer
from torch import Tensor

from nemo_bt.batching.stream import PairStream
from nemo_bt.config.loss import LossSettings
from nemo_bt.config.model import LoraSettings
from nemo_bt.losses.choose import AnyLoss, loss_function
from nemo_bt.model.balance import BalancedRouter
from nemo_bt.model.config import RewardConfig
from nemo_bt.model.load import load_weights
from nemo_bt.model.lora import add_adapters, trained_part
from nemo_bt.model.loss_reduction import PairLossReduction
from nemo_bt.model.reward_gpt import RewardGPT, replaced
from nemo_bt.model.transformer_engine import without_extra_state
from nemo_bt.pretrained.adapters import is_trained
from nemo_bt.pretrained.resolve import InitialWeights

_FOR_A_BAR = ("lr", "global_step", "step")
"""What NeMo and its optimizer log in each step for a progress bar that is off."""
_NOT_WRITTEN = ("initial_weights", "loss_fn", "adapter_seed")
"""Arguments of RewardModel that are in no checkpoint."""


class RewardModel(nemo_gpt.GPTModel):
    """A reward model for NeMo's Trainer.

    Args:
        config: what `nemo_bt.model.config.reward_config` makes.
        loss: terms of the loss.
        optim: NeMo's optimizer module.
        tokenizer: NeMo's tokenizer, which is saved into the checkpoint's context.
        lora: adapters to train in the place of the weights.
        initial_weights: weights that are loaded when the model is built; None leaves them random.
        loss_fn: a loss of your own in the place of `loss`.
        adapter_seed: decides the adapters' first matrices.
    """

    def __init__(
        self,
        config: RewardConfig,
        loss: LossSettings | None = None,
        optim: Any = None,
        tokenizer: Any = None,
        lora: LoraSettings | None = None,
        *,
        initial_weights: InitialWeights | None = None,
        loss_fn: AnyLoss | None = None,
        adapter_seed: int = 0,
    ) -> None:
        super().__init__(config, optim=optim, tokenizer=tokenizer)
        num_attributes = len(config.architecture.attributes)
        loss = loss or LossSettings()
        self.loss_fn = loss_function(loss, loss_fn, num_attributes)
        self.loss_settings = loss
        self.initial_weights = initial_weights
        self.lora = lora
        self.adapter_seed = adapter_seed
        self.step_losses: list[Tensor] = []
        """Losses of each stream of the last training step, on the last pipeline stage."""

    def io_transform_args(self, init_fn: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Give the arguments that NeMo writes into every checkpoint: all that are plain data."""
        written: dict[str, Any] = super().io_transform_args(init_fn, *args, **kwargs)
        return {name: value for name, value in written.items() if name not in _NOT_WRITTEN}

    def reinit(self) -> RewardModel:
        """Copy the model before it is built: NeMo makes one for each part of an interleaved pipeline."""
        copy: RewardModel = fdl.build(fdl.copy_with(self.__io__, loss_fn=self.loss_fn))
        copy.initial_weights = self.initial_weights
        copy.adapter_seed = self.adapter_seed
        copy.step_losses = self.step_losses
        copy.config.architecture = self.config.architecture
        return copy

    def configure_model(self, vp_stage: int | None = None) -> None:
        """Build the module, and load initial weights at once, before the optimizer copies them.

        Our classes stand where NeMo names GPTModel itself (base.py:374), and Megatron TopKRouter (moe_layer.py:124).
        """
        if hasattr(self, "module"):
            return
        with replaced(nemo_gpt, "MCoreGPTModel", RewardGPT), replaced(moe_layer, "TopKRouter", BalancedRouter):
            super().configure_model(vp_stage)
        if self.initial_weights:
            load_weights(self.module, self.initial_weights)
        if self.lora:
            add_adapters(self.module, self.lora, self.adapter_seed)

    def sharded_state_dict(self, prefix: str = "", metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give what a checkpoint has of this rank: everything, or what training with adapters changes.

        Names begin with "module.", as those of NeMo's models do: in training Megatron's wrapper says so.
        """
        if not isinstance(self.module, DistributedDataParallel):
            prefix += "module."
        sharded = without_extra_state(self.module.sharded_state_dict(prefix=prefix, metadata=metadata))
        return trained_part(sharded) if self.lora else sharded

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint, which has weights alone; one of adapters leaves the frozen weights as they are.

        Raises:
            RuntimeError: a tensor is missing or not known, or there is a state that Transformer Engine would unpickle.
        """
        weights = without_extra_state(dict(state_dict))
        if len(weights) < len(state_dict):
            raise RuntimeError(f"expected weights alone, got {sorted(state_dict.keys() - weights.keys())}")
        result = super().load_state_dict(weights, False, assign)
        expected = without_extra_state(dict.fromkeys(result.missing_keys))
        missing = [name for name in expected if is_trained(name) or not self.lora]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(f"missing {missing}, not known {result.unexpected_keys}")
        return result

    def on_train_batch_start(self, *_: Any) -> int | None:
        """Leave the step out, and end the epoch, when the run is to stop; callbacks have saved by now."""
        return -1 if self.trainer.should_stop else None

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Log a value, but for NeMo's own of a progress bar, for which the host would wait between two steps."""
        if name not in _FOR_A_BAR:
            super().log(name, *args, **kwargs)

    def data_step(self, dataloader_iter: Iterator[PairStream]) -> PairStream:
        """Give the next stream, on this rank's device."""
        return next(dataloader_iter).to(torch.device(torch.cuda.current_device()))

    @property
    def attributes(self) -> list[str]:
        """Names of the attributes that the head has a row for each of; none where it gives one reward."""
        return list(self.config.architecture.attributes)

    @property
    def _weights(self) -> list[float]:
        return list(self.config.architecture.attributes.values())

    @property
    def _log_tie(self) -> Tensor | None:
        inner: Any = self.module
        while hasattr(inner, "module"):  # Megatron's wrappers
            inner = inner.module
        return getattr(getattr(inner, "output_layer", None), "log_tie", None)

    def forward_step(self, batch: PairStream) -> Tensor:
        """Give rewards, [C] or [C, A], on the last pipeline stage; hidden states on the others."""
        return self.module(batch.tokens_1T, batch.positions_1T, batch.segments_C5)

    @property
    def training_loss_reduction(self) -> PairLossReduction:
        """Loss that NeMo calls for each training micro-batch."""
        return self._reduction(self.step_losses)

    @property
    def validation_loss_reduction(self) -> PairLossReduction:
        """Loss that NeMo calls for each validation micro-batch."""
        return self._reduction(None)

    def _reduction(self, losses: list[Tensor] | None) -> PairLossReduction:
        error, has_lists = self.loss_settings.regression_error, self.loss_settings.takes != "pairs"
        return PairLossReduction(self.loss_fn, losses, self._weights, self._log_tie, error, has_lists)

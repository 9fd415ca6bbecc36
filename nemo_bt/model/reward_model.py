"""The NeMo model: a GPT configuration of NeMo with a reward head, trained on pair streams.

Shape suffixes: C = continuations, P = pairs, S = sources of data, M = sums of nemo_bt.metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import nemo.collections.llm.gpt.model.base as nemo_gpt
import torch
from nemo.collections import llm
from nemo.lightning.megatron_parallel import MegatronLossReduction
from torch import Tensor

from nemo_bt.loss import bradley_terry_loss
from nemo_bt.metrics import pair_sums
from nemo_bt.model.config import RewardConfig
from nemo_bt.model.load import load_weights
from nemo_bt.model.reward_gpt import RewardGPT, replaced
from nemo_bt.origin import Start
from nemo_bt.settings import LossSettings
from nemo_bt.stream import PairStream


class PairLossReduction(MegatronLossReduction):
    """Loss of a micro-batch as (sum, pairs, metric sums); Megatron divides the gradient by all pairs of the step."""

    def __init__(self, settings: LossSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, batch: PairStream, reward_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score the pairs of one stream.

        Args:
            batch: the stream; NeMo hands it over through `setup`.
            reward_C: [C], float32; a continuation may be in several pairs.

        Returns:
            Loss sum in nats, number of pairs (int32), and the sums of nemo_bt.metrics, [S, M].
        """
        chosen_P, rejected_P = reward_C[batch.pairs_P2].unbind(1)
        loss_P = bradley_terry_loss(chosen_P, rejected_P, batch.margin_P, batch.weight_P, self.settings)
        num_pairs = torch.full((), batch.num_pairs, dtype=torch.int, device=loss_P.device)
        return loss_P.sum(), num_pairs, pair_sums(loss_P, chosen_P, rejected_P, batch.source_P, batch.num_sources)

    def reduce(self, losses_reduced_per_micro_batch: Sequence[Tensor]) -> Tensor:
        """Mean loss over this rank's micro-batches; what is logged comes from the sums instead."""
        sums_M = torch.stack(list(losses_reduced_per_micro_batch)).sum((0, 1))
        return (sums_M[1] / sums_M[0].clamp(min=1)).float()


class RewardModel(llm.GPTModel):
    """A reward model for NeMo's Trainer.

    Args:
        config: made by `nemo_bt.model.config.reward_config`.
        loss: terms of the loss.
        optim: NeMo's optimizer module.
        tokenizer: NeMo's tokenizer, saved into the checkpoint's context.
    """

    def __init__(self, config: RewardConfig, loss: LossSettings, optim: Any = None, tokenizer: Any = None) -> None:
        super().__init__(config, optim=optim, tokenizer=tokenizer)
        self.loss_settings = loss
        self.start: Start | None = None
        """Initial weights; not an argument, because NeMo writes those into every checkpoint."""

    def configure_model(self, vp_stage: int | None = None) -> None:
        """Build `RewardGPT` where NeMo's configurations name Megatron's GPTModel themselves (base.py:374).

        Initial weights are loaded at once, before the optimizer copies them.
        """
        if hasattr(self, "module"):
            return
        with replaced(nemo_gpt, "MCoreGPTModel", RewardGPT):
            super().configure_model(vp_stage)
        if self.start:
            load_weights(self.module, self.start)

    def data_step(self, dataloader_iter: Iterator[PairStream]) -> PairStream:
        """The next stream, on this rank's device."""
        return next(dataloader_iter).to(torch.device(torch.cuda.current_device()))

    def forward_step(self, batch: PairStream) -> Tensor:
        """Rewards, [C], on the last pipeline stage; hidden states on the others."""
        return self.module(batch.tokens_1T, batch.positions_1T, batch.segments_C4, batch.scored_C)

    @property
    def training_loss_reduction(self) -> PairLossReduction:
        """Called by NeMo for each training micro-batch."""
        return PairLossReduction(self.loss_settings)

    @property
    def validation_loss_reduction(self) -> PairLossReduction:
        """Called by NeMo for each validation micro-batch."""
        return PairLossReduction(self.loss_settings)

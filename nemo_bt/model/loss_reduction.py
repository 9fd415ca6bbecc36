"""Rewards of a stream -> its loss, and the sums that are logged: what Megatron's schedule calls for each micro-batch.

Shape suffixes: C = continuations, P = comparisons (pairs or lists), K = sides of the longest, A = attributes,
S = sources of data, M = sums of nemo_bt.metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from megatron.core import parallel_state
from nemo.lightning.megatron_parallel import MegatronLossReduction
from torch import Tensor

from nemo_bt.batching.stream import PairStream
from nemo_bt.losses.comparisons import ComparisonLoss, Comparisons
from nemo_bt.losses.regression import value_errors
from nemo_bt.metrics import SUMS, answer_sums, attribute_sums, pair_sums, with_order


class PairLossReduction(MegatronLossReduction):
    """Loss of a micro-batch as (sum, comparisons, metric sums); Megatron divides the gradient by all of the step.

    Args:
        loss_fn: gives each comparison's loss.
        losses: list that keeps the losses of each stream, [P] each, detached; None keeps none.
        weights: weight of each attribute in the reward that ranks; none where the model gives one reward.
        log_tie: logarithm of the parameter of a loss with ties, [1], where it is learnt.
        error: error that is logged of each attribute.
        has_lists: whether the loss takes lists, or all answers to a prompt.
    """

    def __init__(
        self,
        loss_fn: ComparisonLoss,
        losses: list[Tensor] | None = None,
        weights: Sequence[float] = (),
        log_tie: Tensor | None = None,
        error: Literal["mse", "bce"] = "mse",
        has_lists: bool = False,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.log_tie = log_tie
        self.error = error
        self.has_lists = has_lists
        self.loss_fn = loss_fn
        self.losses = losses

    def forward(self, batch: PairStream, reward_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score the comparisons of one stream.

        Every context-parallel rank has all rewards: the first counts the pairs, and Megatron adds the gradients up.

        Args:
            batch: the stream, which NeMo hands over through `setup`.
            reward_C: rewards, [C], float32, or [C, A]; a continuation may be in several comparisons.

        Returns:
            Loss sum in nats, number of comparisons (int32), and the sums of nemo_bt.metrics, [S, M].
        """
        given = rewarded(batch, reward_C, self.weights)
        is_first = parallel_state.get_context_parallel_rank() == 0
        if self.log_tie is not None:  # ranks that share a stream compute the same loss: one has the gradient
            tie = self.log_tie.float().exp().squeeze()
            given = replace(given, tie=tie if is_first else 0.0 * tie + tie.detach())  # all send one, if only of 0
        loss_P = self.loss_fn(given)
        if self.losses is not None:
            self.losses.append(loss_P.detach())
            loss_P = loss_P * torch.where(loss_P.isfinite(), 1.0, math.nan)  # the gradient is NaN too
        counted = batch.num_comparisons if is_first else 0
        num_comparisons = torch.full((), counted, dtype=torch.int, device=loss_P.device)
        sums_SM = pair_sums(loss_P, given.chosen, given.rejected, batch.source_P, batch.num_sources)
        if not batch.is_plain:
            sums_SM = with_order(sums_SM, given.reward_PK, given.better, batch.source_P)
        if given.tie is not None:
            sums_SM[:, SUMS.index("tie")] = sums_SM[:, 0] * given.tie.detach()
        if given.attribute_reward_PKA is not None:
            sums_SM = torch.cat([sums_SM, self._attribute_sums(given.attribute_reward_PKA, batch)], dim=1)
        if self.has_lists:
            of_answers = answer_sums(given.reward_PK, given.is_there_PK, batch.source_P, batch.num_sources)
            sums_SM = torch.cat([sums_SM, of_answers], dim=1)
        return loss_P.sum(), num_comparisons, sums_SM

    def _attribute_sums(self, reward_PKA: Tensor, batch: PairStream) -> Tensor:
        """Add up the attributes of a stream, [S, 3A]; one of padding alone says nothing of any."""
        reward_PKA = reward_PKA.detach().double()
        value_PKA = batch.attribute_PKA
        value_PKA = torch.full_like(reward_PKA, math.nan) if value_PKA is None else value_PKA.double()
        error_PKA = value_errors(reward_PKA, value_PKA, self.error)
        return attribute_sums(reward_PKA, value_PKA, error_PKA, batch.source_P, batch.num_sources)

    def reduce(self, losses_reduced_per_micro_batch: Sequence[Tensor]) -> Tensor:
        """Give the mean loss over this rank's micro-batches; what is logged comes from the sums instead."""
        sums_M = torch.stack(list(losses_reduced_per_micro_batch)).sum((0, 1))
        return (sums_M[1] / sums_M[0].clamp(min=1)).float()


def rewarded(batch: PairStream, reward: Tensor, weights: Sequence[float]) -> Comparisons:
    """Put the rewards of a stream's continuations to the comparisons that they are in.

    Args:
        reward: [C], or [C, A] with attributes.
        weights: weight of each attribute in the reward that ranks.
    """
    sides_PK, is_there_PK = batch.sides_PK, None
    if batch.is_ragged:
        is_there_PK = sides_PK >= 0
        sides_PK = sides_PK.clamp(min=0)
    reward_PKA = None
    if weights:
        reward_PKA = reward[sides_PK]
        reward = combine(reward, weights)
    reward_PK = reward[sides_PK]
    if is_there_PK is not None:
        reward_PK = torch.where(is_there_PK, reward_PK, 0.0)
    known = (batch.score_PK, batch.margin_P, batch.preference_P, batch.weight_P)
    return Comparisons(reward_PK, is_there_PK, *known, reward_PKA, batch.attribute_PKA, tokens_PK=batch.tokens_PK)


def combine(reward_CA: Tensor, weights: Sequence[float]) -> Tensor:
    """Give the weighted sum of attributes, [C]."""
    return reward_CA @ reward_CA.new_tensor(weights)

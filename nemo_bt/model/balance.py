"""Balance of experts: an auxiliary loss of each sequence on its own, so that no packing or layout changes it.

Shape suffixes: C = continuations, r = rows of the stream that this rank routes, E = experts.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.moe.moe_utils import compute_routing_scores_for_aux_loss
from megatron.core.transformer.moe.router import MoEAuxLossAutoScaler, TopKRouter
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from nemo_bt.batching.context_shards import ContextShard
from nemo_bt.batching.stream import to_device
from nemo_bt.model.attention.context_parallel import held_here


class PairStreamLayer(TransformerLayer):
    """Megatron's layer, which tells its router at each forward and each recomputation whose rows it routes."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run Megatron's forward with `PairStream.segments_C5` for a mask."""
        if isinstance(getattr(self.mlp, "router", None), BalancedRouter):
            self.mlp.router.segments_C5 = attention_mask
        return super().forward(hidden_states, attention_mask, *args, **kwargs)


class BalancedRouter(TopKRouter):
    """Megatron's router with the auxiliary loss of `balance_loss`.

    Megatron divides its gradient too by the pairs of the step: a pair adds the mean of its two sequences.
    """

    segments_C5: Tensor

    def routing(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Give probabilities and the map of tokens to experts, [r, E] each."""
        probs, routing_map = super().routing(logits)
        coefficient = self.config.moe_aux_loss_coeff
        if not (coefficient and self.training and torch.is_grad_enabled()):
            return probs, routing_map
        chosen_rE, score_rE = compute_routing_scores_for_aux_loss(
            logits.view(-1, logits.shape[-1]), self.topk, self.score_function
        )
        sharing = parallel_state.get_tensor_model_parallel_world_size() if self.config.sequence_parallel else 1
        first = len(chosen_rE) * (parallel_state.get_tensor_model_parallel_rank() if sharing > 1 else 0)
        shard = held_here(len(chosen_rE) * sharing)
        member_Cr = to_device(members(self.segments_C5, shard)[:, first : first + len(chosen_rE)], score_rE.device)
        count_CE = member_Cr @ chosen_rE.float()
        torch.distributed.all_reduce(count_CE, group=self.tp_cp_group)
        loss = balance_loss(member_Cr @ score_rE, count_CE, self.segments_C5, self.topk)
        return MoEAuxLossAutoScaler.apply(probs, coefficient * loss), routing_map


def members(segments_C5: Tensor, shard: ContextShard) -> Tensor:
    """Mark with 1 which rows of a context-parallel rank belong to which sequence, [C, t], float32."""
    row_t = torch.cat([torch.arange(run.start, run.stop) for run in shard.runs])
    prefix_start, prefix_end, start, end, _ = segments_C5.long().T[..., None]
    return (((row_t >= prefix_start) & (row_t < prefix_end)) | ((row_t >= start) & (row_t < end))).float()


def balance_loss(score_CE: Tensor, count_CE: Tensor, segments_C5: Tensor, topk: int) -> Tensor:
    """Sum, over comparisons, half of E * sum_i f_i P_i of each sequence: of a pair it is the mean of its two.

    f_i is the share of a sequence's choices that fall on expert i, and P_i the mean of its probability; an even choice
    and even probabilities give 1. Source: Fedus et al. 2021 (arXiv 2101.03961) eq. 4, for each sequence alone as in
    DeepSeek-AI 2024 (arXiv 2412.19437) eq. 17. A list of K sequences weighs as K / 2 pairs.

    Args:
        score_CE: sums of probabilities over the rows of a sequence that this rank has, [C, E].
        count_CE: choices over all its rows, [C, E].
        topk: experts that a token chooses.
    """
    prefix_start, prefix_end, start, end, num_uses_C = to_device(segments_C5.long().T, score_CE.device)
    length_C = prefix_end - prefix_start + end - start
    term_C = (score_CE * count_CE).sum(1) * score_CE.shape[1] / (topk * length_C.float() ** 2)
    return (term_C * num_uses_C).sum() / 2

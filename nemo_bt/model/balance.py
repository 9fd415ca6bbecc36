"""Balance of experts: an auxiliary loss of each sequence on its own, so that no packing or layout changes it.

A sequence is a prefix and a continuation. Both are runs of rows, pieces, so that sums over them are segment sums: rows
are added up once, whatever the number of continuations that share a prefix.

Shape suffixes: C = continuations, S = pieces: prefixes and continuations, r = rows of the stream that this rank routes,
E = experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
        pieces = pieces_of(self.segments_C5, shard, first, len(chosen_rE), score_rE.device)
        count_CE = pieces.of_sequences(chosen_rE.float())
        torch.distributed.all_reduce(count_CE, group=self.tp_cp_group)
        loss = balance_loss(pieces.of_sequences(score_rE), count_CE, pieces.weight_C, self.topk)
        return MoEAuxLossAutoScaler.apply(probs, coefficient * loss), routing_map


@dataclass(frozen=True)
class Pieces:
    """The pieces of a stream, and this rank's rows of each.

    Args:
        piece_r: piece of each row that this rank routes, [r], int64; of padding S.
        num_pieces: S.
        prefix_C: piece of the prefix of each continuation, [C], int64.
        own_C: piece of the continuation itself, [C], int64.
        weight_C: comparisons that the continuation is in, over the square of its sequence's tokens, [C], fp32.
    """

    piece_r: Tensor
    num_pieces: int
    prefix_C: Tensor
    own_C: Tensor
    weight_C: Tensor

    def of_sequences(self, x_rE: Tensor) -> Tensor:
        """Sum the rows of each prefix and its continuation, [C, E]."""
        sum_SE: Tensor = _PieceSums.apply(x_rE, self.piece_r, self.num_pieces)  # type: ignore[no-untyped-call]
        return sum_SE[self.prefix_C] + sum_SE[self.own_C]


class _PieceSums(torch.autograd.Function):
    """The sum of the rows of each piece: a product with a matrix of zeros and ones, which nobody keeps."""

    @staticmethod
    def forward(ctx: Any, x_rE: Tensor, piece_r: Tensor, num_pieces: int) -> Tensor:
        ctx.save_for_backward(piece_r)
        is_member_Sr = piece_r == torch.arange(num_pieces, device=piece_r.device)[:, None]
        return is_member_Sr.to(x_rE.dtype) @ x_rE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (piece_r,) = ctx.saved_tensors
        (grad_SE,) = grads
        return F.pad(grad_SE, (0, 0, 0, 1))[piece_r], None, None


def pieces_of(segments_C5: Tensor, shard: ContextShard, first: int, num_rows: int, device: torch.device) -> Pieces:
    """Find the pieces of a stream of which this rank routes `num_rows` from its own row `first` on.

    All layers ask the same: the last answers are kept.
    """
    return _pieces_of(segments_C5.numpy().tobytes(), shard, first, num_rows, device)


@lru_cache(maxsize=64)
def _pieces_of(segments: bytes, shard: ContextShard, first: int, num_rows: int, device: torch.device) -> Pieces:
    segments_C5 = np.frombuffer(segments, np.int32).reshape(-1, 5).astype(np.int64)
    bounds, piece = np.unique(segments_C5[:, :4].reshape(-1, 2), axis=0, return_inverse=True)
    start_S, end_S = bounds.T
    held = np.concatenate([np.arange(run.start, run.stop) for run in shard.runs])[first : first + num_rows]
    piece_r = np.searchsorted(end_S, held, side="right")
    assert np.array_equal(start_S[1:], end_S[:-1]), "the pieces of a stream touch, and its padding is at its end"
    length_C = segments_C5[:, 1] - segments_C5[:, 0] + segments_C5[:, 3] - segments_C5[:, 2]
    prefix_C, own_C = piece.reshape(-1, 2).T
    weight_C = (segments_C5[:, 4] / np.maximum(1, length_C) ** 2).astype(np.float32)
    with torch.inference_mode(False):  # a validation may ask first, and training go on with the answer
        arrays = (piece_r, prefix_C.copy(), own_C.copy(), weight_C)
        piece, *of_sequences = (to_device(torch.from_numpy(array), device) for array in arrays)
        return Pieces(piece, len(bounds), *of_sequences)


def balance_loss(score_CE: Tensor, count_CE: Tensor, weight_C: Tensor, topk: int) -> Tensor:
    """Sum, over comparisons, half of E * sum_i f_i P_i of each sequence: of a pair it is the mean of its two.

    f_i is the share of a sequence's choices that fall on expert i, and P_i the mean of its probability; an even choice
    and even probabilities give 1. Source: Fedus et al. 2021 (arXiv 2101.03961) eq. 4, for each sequence alone as in
    DeepSeek-AI 2024 (arXiv 2412.19437) eq. 17. A list of K sequences weighs as K / 2 pairs.

    Args:
        score_CE: sums of probabilities over the rows of a sequence that this rank has, [C, E].
        count_CE: choices over all its rows, [C, E].
        weight_C: `Pieces.weight_C`.
        topk: experts that a token chooses.
    """
    return ((score_CE * count_CE).sum(1) * weight_C).sum() * score_CE.shape[1] / (2 * topk)

"""Attention over the segments of a pair stream: the shared prefix is read by every continuation, never repeated.

Shape suffixes: T = tokens in the stream, N = query heads on this rank, G = key/value heads on this rank,
D = head size, C = continuations, Q = rows of one call, K = keys of one call.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor


class SegmentAttention(MegatronModule):
    """Megatron's core attention for a pair stream.

    `attention_mask` carries `PairStream.segments_C4`: a small CPU tensor, so that Megatron's activation recompute
    and pipeline hand it on as they do a mask. Exactly equal to attending in each `prefix + continuation` alone.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any = None,
        attention_type: str = "self",
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale

    def forward(
        self, query_T1ND: Tensor, key_T1GD: Tensor, value_T1GD: Tensor, attention_mask: Tensor, **_: Any
    ) -> Tensor:
        """Attend.

        Args:
            query_T1ND: [T, 1, N, D].
            key_T1GD: [T, 1, G, D].
            value_T1GD: [T, 1, G, D].
            attention_mask: segments_C4, [C, 4], int32, on the CPU.

        Returns:
            [T, 1, N * D]; rows of filling are zero.
        """
        query, key, value = (x[:, 0].transpose(0, 1) for x in (query_T1ND, key_T1GD, value_T1GD))
        parts = []
        end = 0
        for prefix_start, prefix_end, start, end in attention_mask.tolist():
            if start == prefix_end:  # first of its group: the prefix's rows come along
                rows = slice(prefix_start, end)
                parts.append(self._attend(query[:, rows], key[:, rows], value[:, rows]))
            else:
                keys, values = (
                    torch.cat([x[:, prefix_start:prefix_end], x[:, start:end]], dim=1) for x in (key, value)
                )
                parts.append(self._attend(query[:, start:end], keys, values))
        num_filling = query.shape[1] - end
        if num_filling:
            parts.append(query.new_zeros(query.shape[0], num_filling, query.shape[2]))
        out_NTD = torch.cat(parts, dim=1)
        return out_NTD.transpose(0, 1).reshape(out_NTD.shape[1], 1, -1)

    def _attend(self, query_NQD: Tensor, key_GKD: Tensor, value_GKD: Tensor) -> Tensor:
        """Causal attention in which the last query row sees every key."""
        num_queries, num_keys = query_NQD.shape[1], key_GKD.shape[1]
        mask = None
        if num_queries != num_keys:
            mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query_NQD.device)
            mask = mask.tril(num_keys - num_queries)
        return F.scaled_dot_product_attention(
            query_NQD[None],
            key_GKD[None],
            value_GKD[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.softmax_scale,
            enable_gqa=query_NQD.shape[0] != key_GKD.shape[0],
        )[0]

"""Attention over the segments of a pair stream: the shared prefix is read by every continuation, never repeated.

Shape suffixes: T = tokens in the stream, N = query heads on this rank, G = key/value heads on this rank,
D = head size, C = continuations, Q = rows of one call, K = keys of one call.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_bt.architecture import rope_frequencies


class RotarySelfAttention(SelfAttention):
    """Megatron's self-attention with the rotary angles of its kind of layer, and their factor where there is one."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        frequencies, self.rotary_scaling = rope_frequencies(config.hf_config)
        self.rotary_size = 2 * len(frequencies[0])
        has_window = config.layer_windows[self.layer_number - 1] > 0
        self.kind = 1 if has_window and len(frequencies) > 1 else 0

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, rotary_pos_emb: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            hidden_states: [t, 1, H].
            attention_mask: segments_C4.
            rotary_pos_emb: angles of all kinds of layers, [kinds, T, 1, 1, D].
            **kwargs: Megatron's.
        """
        return super().forward(hidden_states, attention_mask, rotary_pos_emb=rotary_pos_emb[self.kind], **kwargs)

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        """Megatron's, with rotated dimensions scaled: cosine and sine times a factor, in any rotary kernel."""
        query, key, value = super().get_query_key_value_tensors(*args, **kwargs)
        if self.rotary_scaling != 1.0:
            scaling_D = torch.ones(query.shape[-1], device=query.device)  # fp32: bf16 would round the factor itself
            scaling_D[: self.rotary_size] = self.rotary_scaling
            query, key = ((x * scaling_D).to(x.dtype) for x in (query, key))
        return query, key, value


class SegmentAttention(MegatronModule):
    """Megatron's core attention for a pair stream.

    `attention_mask` carries `PairStream.segments_C4`: a small CPU tensor, so that Megatron's activation recompute
    and pipeline hand it on as they do a mask. Exactly equal to attending in each `prefix + continuation` alone.
    """

    def __init__(self, config: Any, layer_number: int, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale or config.kv_channels**-0.5
        self.window = config.layer_windows[layer_number - 1]
        self.softcap = config.attn_logit_softcapping

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
        """Causal attention in which the last query row sees every key of its window."""
        num_queries, num_keys = query_NQD.shape[1], key_GKD.shape[1]
        limited = 0 < self.window < num_keys
        if num_queries == num_keys and not limited and not self.softcap:
            mask_QK = None
        else:
            mask_QK = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query_NQD.device)
            mask_QK = mask_QK.tril(num_keys - num_queries)
            if limited:
                mask_QK = mask_QK.triu(num_keys - num_queries - self.window + 1)
        if self.softcap:
            return self._attend_softly(query_NQD, key_GKD, value_GKD, mask_QK)
        return F.scaled_dot_product_attention(
            query_NQD[None],
            key_GKD[None],
            value_GKD[None],
            attn_mask=mask_QK,
            is_causal=mask_QK is None,
            scale=self.softmax_scale,
            enable_gqa=query_NQD.shape[0] != key_GKD.shape[0],
        )[0]

    def _attend_softly(self, query_NQD: Tensor, key_GKD: Tensor, value_GKD: Tensor, mask_QK: Tensor) -> Tensor:
        """softmax(c * tanh(scale * q k / c)) v. Source: Gemma Team 2024 (arXiv 2408.00118), section 2."""
        queries_per_key = query_NQD.shape[0] // key_GKD.shape[0]
        key_NKD, value_NKD = (x.repeat_interleave(queries_per_key, dim=0) for x in (key_GKD, value_GKD))
        logits_NQK = self.softmax_scale * query_NQD @ key_NKD.transpose(1, 2)
        logits_NQK = self.softcap * torch.tanh(logits_NQK / self.softcap)
        weights_NQK = logits_NQK.masked_fill(~mask_QK, float("-inf")).softmax(-1, dtype=torch.float32)
        return weights_NQK.to(value_NKD.dtype) @ value_NKD

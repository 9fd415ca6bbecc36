"""Attention over the segments of a pair stream: the shared prefix is read by every continuation, never repeated.

The last layer hands on the scored rows alone: nothing else of it reaches a reward.

Shape suffixes: T = tokens in the stream, t = T / TP under sequence parallelism and T without, N = query heads on this
rank, G = key/value heads on this rank, D = head size, H = hidden size, C = continuations, c = C rounded up to a
multiple of TP under sequence parallelism.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_bt.architecture import rope_frequencies
from nemo_bt.model.blocked_attention import blocked_attention
from nemo_bt.model.segments import AttentionRule, scored_rows, segments_of


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

        Returns:
            Output and its bias. The last layer's output is [c, 1, H] (c / TP of it under sequence parallelism) and
            has the residual added: `add_nothing` in the place of Megatron's addition leaves it as it is.
        """
        output, bias = super().forward(
            hidden_states, attention_mask, rotary_pos_emb=rotary_pos_emb[self.kind], **kwargs
        )
        if self.layer_number == self.config.num_layers:
            output = output + _take_rows(hidden_states, _scored_rows(attention_mask, self.config), self.config)
        return output, bias

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        """Megatron's, with rotated dimensions scaled: cosine and sine times a factor, in any rotary kernel."""
        query, key, value = super().get_query_key_value_tensors(*args, **kwargs)
        if self.rotary_scaling != 1.0:
            scaling_D = torch.ones(query.shape[-1], device=query.device)  # fp32: bf16 would round the factor itself
            scaling_D[: self.rotary_size] = self.rotary_scaling
            query, key = ((x * scaling_D).to(x.dtype) for x in (query, key))
        return query, key, value


def add_nothing(training: bool, fused: bool) -> Any:
    """In the place of Megatron's `get_bias_dropout_add` behind the last layer's attention: it has the residual."""
    return lambda output_and_bias, residual, dropout: _with_bias(*output_and_bias)


def _with_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    return output if bias is None else output + bias


class SegmentAttention(MegatronModule):
    """Megatron's core attention for a pair stream.

    `attention_mask` carries `PairStream.segments_C4`: a small CPU tensor, so that Megatron's activation recompute
    and pipeline hand it on as they do a mask. Exactly equal to attending in each `prefix + continuation` alone.
    """

    def __init__(self, config: Any, layer_number: int, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__(config=config)
        self.rule = AttentionRule(
            scale=softmax_scale or config.kv_channels**-0.5,
            window=config.layer_windows[layer_number - 1],
            softcap=config.attn_logit_softcapping,
            only_scored=layer_number == config.num_layers,
        )

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
            [T, 1, N * D]; rows of filling are zero. Of the last layer [c, 1, N * D].
        """
        query, key, value = (x[:, 0] for x in (query_T1ND, key_T1GD, value_T1GD))
        attend = kernel_attention if query.is_cuda and not self.rule.softcap else blocked_attention
        out = attend(query, key, value, attention_mask, self.rule).flatten(1)
        if self.rule.only_scored:
            num_filling = len(_scored_rows(attention_mask, self.config)) - len(out)
            out = F.pad(out, (0, 0, 0, num_filling)) if num_filling else out
        return out[:, None]


def kernel_attention(
    query_TND: Tensor, key_TGD: Tensor, value_TGD: Tensor, segments_C4: Tensor, rule: AttentionRule
) -> Tensor:
    """What `blocked_attention` computes, with one call of torch's attention kernel per segment: for GPUs.

    Raises:
        ValueError: there is a soft cap, which the kernel does not know.
    """
    if rule.softcap:
        raise ValueError("expected no softcap, got one; blocked_attention has it")
    out_QND = query_TND.new_zeros(len(segments_C4) if rule.only_scored else len(query_TND), *query_TND.shape[1:])
    for segment in segments_of(segments_C4, rule.only_scored):
        for block in segment.blocks(len(query_TND), rule.window):
            hidden_RK = block.hidden_keys(query_TND.device)
            is_causal = hidden_RK is not None and not block.num_before and not block.window
            query_NRD = query_TND[block.rows].transpose(0, 1)
            keys, values = (segment.of(x.transpose(0, 1))[:, block.keys] for x in (key_TGD, value_TGD))
            out_NRD = F.scaled_dot_product_attention(
                query_NRD[None],
                keys[None],
                values[None],
                attn_mask=None if is_causal or hidden_RK is None else ~hidden_RK,
                is_causal=is_causal,
                scale=rule.scale,
                enable_gqa=query_TND.shape[1] != key_TGD.shape[1],
            )[0]
            out_QND[block.out_rows] = out_NRD.transpose(0, 1)
    return out_QND


def _scored_rows(segments_C4: Tensor, config: Any) -> Tensor:
    return scored_rows(segments_C4, config.tensor_model_parallel_size if config.sequence_parallel else 1)


def _take_rows(hidden_t1H: Tensor, rows_c: Tensor, config: Any) -> Tensor:
    """Rows of the stream, [c, 1, H]; under sequence parallelism this rank's c / TP of them, wherever they were."""
    rows_c = rows_c.to(hidden_t1H.device)
    if not config.sequence_parallel:
        return hidden_t1H[rows_c]
    num_local = len(hidden_t1H)
    local_c = rows_c - num_local * parallel_state.get_tensor_model_parallel_rank()
    is_local_c = (local_c >= 0) & (local_c < num_local)
    mine_c1H = hidden_t1H[local_c.clamp(0, num_local - 1)] * is_local_c[:, None, None]
    return tensor_parallel.reduce_scatter_to_sequence_parallel_region(mine_c1H)

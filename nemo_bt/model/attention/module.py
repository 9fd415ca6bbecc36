"""Attention over the segments of a pair stream: every continuation reads the shared prefix, which is never repeated.

The last layer hands on the scored rows alone: nothing else of it reaches a reward. Under context parallelism a rank has
the queries of the rows that it holds, and the keys and values of all.

Shape suffixes: T = tokens in the stream, t = those that this rank holds, T / CP, s = t / TP under sequence parallelism
and t without, N = query heads on this rank, G = key/value heads on this rank, D = head size, H = hidden size,
C = continuations, c = those whose scored token this rank holds, rounded up to a multiple of TP under sequence
parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_bt.batching.context_shards import ContextShard
from nemo_bt.batching.stream import to_device
from nemo_bt.config.fp8 import row_multiple
from nemo_bt.cpu.kernels import rotate
from nemo_bt.model.attention.blocked import blocked_attention
from nemo_bt.model.attention.choice import chosen_kernel, this_gpu
from nemo_bt.model.attention.context_parallel import held_here, keys_and_values_of_all
from nemo_bt.model.attention.flex import segment_flex_attention
from nemo_bt.model.attention.segments import AttentionRule, filled_up, scored_here, segments_of
from nemo_bt.model.attention.varlen import Kernel, flash_kernel, fused_kernel, varlen_attention
from nemo_bt.pretrained.architecture import Architecture


class RotarySelfAttention(SelfAttention):
    """Megatron's self-attention with the rotary angles of its kind of layer, and their factor where there is one."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        architecture: Architecture = config.architecture
        self.rotary_scaling = architecture.rotary_factor
        self.rotary_size = architecture.rotated_size
        has_window = architecture.layer_windows[self.layer_number - 1] > 0
        self.kind = 1 if has_window and len(architecture.rotary_frequencies) > 1 else 0

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, rotary_pos_emb: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            hidden_states: [s, 1, H].
            attention_mask: segments_C5.
            rotary_pos_emb: those of `RotaryAngles` for all kinds of layers, [kinds, t, 1, 1, D].

        Returns:
            Output and its bias. The last layer's output is [c, 1, H] (c / TP of it under sequence parallelism) and
            has the residual added: `add_nothing` in the place of Megatron's addition leaves it as it is.
        """
        self.turning_t11D = rotary_pos_emb[self.kind]
        for_megatron = self.turning_t11D if hidden_states.is_cuda else None
        output, bias = super().forward(hidden_states, attention_mask, rotary_pos_emb=for_megatron, **kwargs)
        del self.turning_t11D
        if keeps_only_scored_tokens(self.config, self.layer_number):
            shard = held_here(rotary_pos_emb.shape[1])
            output = output + take_scored_rows(hidden_states, attention_mask, shard, self.config)
        return output, bias

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        """Scale the rotated dimensions of Megatron's: this is cosine and sine times a factor, in any rotary kernel.

        On a CPU they are rotated here too: Megatron's own rotation passes over memory ten times there, and computes
        cosines and sines in every layer, for queries and for keys.
        """
        query, key, value = super().get_query_key_value_tensors(*args, **kwargs)
        if self.rotary_scaling != 1.0:
            scaling_D = torch.ones(query.shape[-1], device=query.device)  # fp32: bf16 would round the factor itself
            scaling_D[: self.rotary_size] = self.rotary_scaling
            query, key = ((x * scaling_D).to(x.dtype) for x in (query, key))
        if not query.is_cuda:
            cos_and_sin_t1h = self.turning_t11D[:, 0].chunk(2, dim=-1)
            query, key = (rotate(x[:, 0], *cos_and_sin_t1h)[:, None] for x in (query, key))
        return query, key, value


def add_nothing(training: bool, fused: bool) -> Any:
    """Add a bias alone, in the place of `get_bias_dropout_add`: the last layer's attention has the residual."""
    return lambda output_and_bias, residual, dropout: _with_bias(*output_and_bias)


def _with_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    return output if bias is None else output + bias


class SegmentAttention(MegatronModule):
    """Megatron's core attention for a pair stream.

    `attention_mask` carries `PairStream.segments_C5`: a small CPU tensor, so that Megatron's activation recompute
    and pipeline hand it on as they do a mask. The result is exactly that of each `prefix + continuation` alone.
    """

    def __init__(self, config: Any, layer_number: int, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__(config=config)
        self.rule = AttentionRule(
            scale=softmax_scale or config.kv_channels**-0.5,
            window=config.layer_windows[layer_number - 1],
            softcap=config.attn_logit_softcapping,
            only_scored=keeps_only_scored_tokens(config, layer_number),
        )
        self._kernel: Kernel | None = None

    def forward(
        self, query_t1ND: Tensor, key_t1GD: Tensor, value_t1GD: Tensor, attention_mask: Tensor, **_: Any
    ) -> Tensor:
        """Give [t, 1, N * D], where rows of padding are zero; for the last layer [c, 1, N * D]."""
        shard = held_here(len(query_t1ND))
        query_tND, key_tGD, value_tGD = (x[:, 0] for x in (query_t1ND, key_t1GD, value_t1GD))
        key_TGD, value_TGD = keys_and_values_of_all(key_tGD, value_tGD)
        attend = self._implementation(query_tND, key_TGD)
        out = attend(query_tND, key_TGD, value_TGD, attention_mask, self.rule, shard).flatten(1)
        if self.rule.only_scored:
            num_filling = len(_scored_rows(attention_mask, shard, self.config)) - len(out)
            out = F.pad(out, (0, 0, 0, num_filling)) if num_filling else out
        return out[:, None]

    def _implementation(self, query_tND: Tensor, key_TGD: Tensor) -> Callable[..., Tensor]:
        """Choose by device, dtype and `model.attention_backend`."""
        if not query_tND.is_cuda:
            return blocked_attention
        asked = self.config.attention_backend.name
        name, _ = chosen_kernel(asked, query_tND.dtype, query_tND.shape[2], self.rule, this_gpu(asked))
        if name in _WHOLE:
            return _WHOLE[name]
        if self._kernel is None:
            heads = query_tND.shape[1], key_TGD.shape[1], query_tND.shape[2]
            self._kernel = fused_kernel(self.rule, *heads) if name == "fused" else flash_kernel(self.rule)
        return partial(varlen_attention, kernel=self._kernel)


def kernel_attention(
    query_tND: Tensor, key_TGD: Tensor, value_TGD: Tensor, segments_C5: Tensor, rule: AttentionRule, shard: ContextShard
) -> Tensor:
    """Compute `blocked_attention` with one call of torch's attention per segment: for GPUs, in fp32 too.

    Raises:
        ValueError: there is a soft cap, which the kernel does not have.
    """
    if rule.softcap:
        raise ValueError("expected no softcap, got one; blocked_attention has it")
    num_rows = len(scored_here(segments_C5, shard)[0]) if rule.only_scored else len(query_tND)
    # The zeros depend on every input: a rank that attends nowhere takes part in the backward's collectives too.
    zero = query_tND[:0].sum() + key_TGD[:0].sum() + value_TGD[:0].sum()
    out_QND = zero.expand(num_rows, *query_tND.shape[1:]).clone()
    for segment in segments_of(segments_C5, rule.only_scored, shard):
        key_GSD, value_GSD = (segment.of(x.transpose(0, 1)) for x in (key_TGD, value_TGD))
        for block in segment.blocks(len(query_tND), rule.window, shard):
            hidden_RK = block.hidden_keys(query_tND.device)
            is_causal = hidden_RK is not None and not block.num_before and not block.window
            query_NRD = query_tND[block.rows].transpose(0, 1)
            out_NRD = F.scaled_dot_product_attention(
                query_NRD[None],
                key_GSD[None, :, block.keys],
                value_GSD[None, :, block.keys],
                attn_mask=None if is_causal or hidden_RK is None else ~hidden_RK,
                is_causal=is_causal,
                scale=rule.scale,
                enable_gqa=query_tND.shape[1] != key_TGD.shape[1],
            )[0]
            out_QND[block.out_rows] = out_NRD.transpose(0, 1)
    return out_QND


_WHOLE = {"blocked": blocked_attention, "flex": segment_flex_attention, "local": kernel_attention}
"""What computes a stream as it lies, by the name of `chosen_kernel`; kernels for sequences are made for a layer."""


def keeps_only_scored_tokens(config: Any, layer_number: int) -> bool:
    """Tell whether a layer hands on the scored rows alone: the last does, unless its router has to see every row."""
    sees_all = bool(config.num_moe_experts and config.moe_aux_loss_coeff)
    return layer_number == config.num_layers and not sees_all


def _scored_rows(segments_C5: Tensor, shard: ContextShard, config: Any) -> Tensor:
    _, rows = scored_here(segments_C5, shard)
    num_sharing = config.tensor_model_parallel_size if config.sequence_parallel else 1
    return filled_up(rows, num_sharing * row_multiple(config))


def take_scored_rows(hidden_s1H: Tensor, segments_C5: Tensor, shard: ContextShard, config: Any) -> Tensor:
    """Take the scored rows that this context-parallel rank holds, [c, 1, H].

    Under sequence parallelism each tensor-parallel rank gets c / TP of them, wherever they were.
    """
    rows_c = to_device(_scored_rows(segments_C5, shard, config), hidden_s1H.device)
    if not config.sequence_parallel:
        return hidden_s1H[rows_c]
    num_local = len(hidden_s1H)
    local_c = rows_c - num_local * parallel_state.get_tensor_model_parallel_rank()
    is_local_c = (local_c >= 0) & (local_c < num_local)
    mine_c1H = hidden_s1H[local_c.clamp(0, num_local - 1)] * is_local_c[:, None, None]
    return tensor_parallel.reduce_scatter_to_sequence_parallel_region(mine_c1H)

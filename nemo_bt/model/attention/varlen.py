"""Attention over the segments of a stream as one call of a kernel for sequences of different lengths: for GPUs.

A continuation is a sequence whose queries are its own rows and whose keys are its prefix and itself. Queries lie in the
stream as the kernel wants them; keys and values are gathered, those of a prefix once for every continuation, and kept
so for the backward pass: under context parallelism up to the segment's of each run of rows. Causal masks are aligned at
the bottom right: the last query of a sequence sees all of its keys.

Shape suffixes: T = tokens in the stream, t = rows that this rank holds, N = query heads, G = key/value heads, D = head
size, S = sequences, Q = their queries, K = their keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_bt.batching.context_shards import ContextShard
from nemo_bt.batching.stream import to_device
from nemo_bt.model.attention.segments import AttentionRule, scored_here, segments_of

_LONGEST_MULTIPLE = 64
"""Multiple to which bounds of lengths are rounded up, as Transformer Engine does where it has to look for them."""


@dataclass(frozen=True)
class Sequences:
    """What a kernel computes together.

    Args:
        query_rows_Q: places among the rows that this rank holds, int64; None for the first Q as they lie.
        key_rows_K: rows of the stream, int64.
        query_starts: where the queries of each sequence start, and Q, [S + 1] int32.
        key_starts: where its keys start, and K, [S + 1] int32.
        longest_query: at least as many queries as any sequence has.
        longest_key: at least as many keys as any sequence has, and no fewer than longest_query.
    """

    query_rows_Q: Tensor | None
    key_rows_K: Tensor
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int
    num_queries: int


Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, Sequences], Tensor]
"""Queries [Q, N, D], keys and values [K, G, D], and what they are -> [Q, N, D]."""


def varlen_attention(
    query_tND: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    segments_C5: Tensor,
    rule: AttentionRule,
    shard: ContextShard,
    kernel: Kernel,
) -> Tensor:
    """Compute `blocked_attention` by a kernel.

    Raises:
        ValueError: there is a soft cap, which kernels do not have.
    """
    if rule.softcap:
        raise ValueError("expected no softcap, got one; blocked_attention has it")
    num_rows = len(scored_here(segments_C5, shard)[0]) if rule.only_scored else len(query_tND)
    found = sequences_of(segments_C5, rule.window, rule.only_scored, shard, len(query_tND), query_tND.device)
    if not found.num_queries:
        # The zeros depend on every input: a rank that attends nowhere takes part in the backward's collectives too.
        zero = query_tND[:0].sum() + key_TGD[:0].sum() + value_TGD[:0].sum()
        return zero.expand(num_rows, *query_tND.shape[1:]).clone()
    query_QND = query_tND[: found.num_queries] if found.query_rows_Q is None else query_tND[found.query_rows_Q]
    key_KGD: Tensor = _GatheredRows.apply(key_TGD, found.key_rows_K)  # type: ignore[no-untyped-call]
    value_KGD: Tensor = _GatheredRows.apply(value_TGD, found.key_rows_K)  # type: ignore[no-untyped-call]
    out_QND = kernel(query_QND, key_KGD, value_KGD, found)
    return F.pad(out_QND, (0, 0, 0, 0, 0, num_rows - len(out_QND))) if num_rows > len(out_QND) else out_QND


def sequences_of(
    segments_C5: Tensor, window: int, only_scored: bool, shard: ContextShard, num_held: int, device: torch.device
) -> Sequences:
    """Find the sequences of a stream of which this rank holds `num_held` rows, `shard`.

    All layers of one kind ask the same: the last answers are kept.
    """
    return _sequences_of(segments_C5.numpy().tobytes(), window, only_scored, shard, num_held, device)


@lru_cache(maxsize=64)
def _sequences_of(
    segments: bytes, window: int, only_scored: bool, shard: ContextShard, num_held: int, device: torch.device
) -> Sequences:
    with torch.inference_mode(False):  # a validation may ask first, and training go on with the answer
        return _found(segments, window, only_scored, shard, num_held, device)


def _found(
    segments: bytes, window: int, only_scored: bool, shard: ContextShard, num_held: int, device: torch.device
) -> Sequences:
    segments_C5 = torch.from_numpy(np.frombuffer(segments, np.int32).reshape(-1, 5).copy())
    query_rows = []
    key_rows = []
    num_queries = [0]
    num_keys = [0]
    for segment in segments_of(segments_C5, only_scored, shard):
        for block in segment.blocks(num_held, window, shard):
            query_rows.append(np.arange(block.rows.start, block.rows.stop))
            key_rows += [np.arange(rows.start, rows.stop) for rows in segment.rows(block.keys)]
            num_queries.append(block.num_rows)
            num_keys.append(block.num_keys)
    rows_Q, rows_K = (np.concatenate([*rows, np.empty(0, np.int64)]) for rows in (query_rows, key_rows))
    as_they_lie = not only_scored
    assert not as_they_lie or np.array_equal(rows_Q, np.arange(len(rows_Q))), "a stream has its padding at its end"
    longest_query, longest_key = (
        -(-max(lengths) // _LONGEST_MULTIPLE) * _LONGEST_MULTIPLE for lengths in (num_queries, num_keys)
    )
    return Sequences(
        query_rows_Q=None if as_they_lie else to_device(torch.from_numpy(rows_Q), device),
        key_rows_K=to_device(torch.from_numpy(rows_K), device),
        query_starts=to_device(torch.tensor(num_queries).cumsum(0).int(), device),
        key_starts=to_device(torch.tensor(num_keys).cumsum(0).int(), device),
        longest_query=longest_query,
        longest_key=longest_key,
        num_queries=len(rows_Q),
    )


class _GatheredRows(torch.autograd.Function):
    """x[rows]; the gradients that a row gets from several places are added up in fp32, and rounded once."""

    @staticmethod
    def forward(ctx: Any, x_TGD: Tensor, rows_K: Tensor) -> Tensor:
        ctx.save_for_backward(rows_K)
        ctx.shape = x_TGD.shape
        return x_TGD[rows_K]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows_K,) = ctx.saved_tensors
        (grad_KGD,) = grads
        wide = torch.promote_types(grad_KGD.dtype, torch.float32)
        grad_TGD = torch.zeros(ctx.shape, dtype=wide, device=grad_KGD.device)
        return grad_TGD.index_add_(0, rows_K, grad_KGD.to(wide)).to(grad_KGD.dtype), None


def flash_kernel(rule: AttentionRule) -> Kernel:
    """Give FlashAttention as torch brings it, for bf16 and fp16, with windows too.

    It calls the operator: `torch.nn.attention.varlen` wraps it from torch 2.10 on, with other arguments in each
    version.
    """
    left = rule.window - 1 if rule.window else -1

    def kernel(query_QND: Tensor, key_KGD: Tensor, value_KGD: Tensor, found: Sequences) -> Tensor:
        out_QND: Tensor
        out_QND, *_ = torch.ops.aten._flash_attention_forward(
            query_QND,
            key_KGD,
            value_KGD,
            found.query_starts,
            found.key_starts,
            found.longest_query,
            found.longest_key,
            0.0,  # dropout
            True,  # causal, aligned at the bottom right
            False,  # it gives no probabilities to look at
            scale=rule.scale,
            window_size_left=left,
            window_size_right=0,
        )
        return out_QND

    return kernel


def fused_kernel(rule: AttentionRule, num_heads: int, num_key_heads: int, head_size: int) -> Kernel:
    """Give Transformer Engine's attention, which is cuDNN's, on Hopper and Blackwell, for bf16 and fp16.

    FP8 is off in it: each rank would have the largest values of its calls reduced together with those of the linear
    layers, and a rank that attends nowhere makes none. The rule has no window, which cuDNN aligns at the top left.
    """
    from transformer_engine.common.recipe import DelayedScaling
    from transformer_engine.pytorch import DotProductAttention, fp8_autocast

    attention = DotProductAttention(
        num_heads,
        head_size,
        num_gqa_groups=num_key_heads,
        attention_dropout=0.0,
        qkv_format="thd",
        attn_mask_type="padding_causal_bottom_right",
        attention_type="cross",
        softmax_scale=rule.scale,
    )
    unused = DelayedScaling()  # without it every call asks the device for a default

    def kernel(query_QND: Tensor, key_KGD: Tensor, value_KGD: Tensor, found: Sequences) -> Tensor:
        with fp8_autocast(enabled=False, fp8_recipe=unused):
            out_QX: Tensor = attention(
                query_QND,
                key_KGD,
                value_KGD,
                cu_seqlens_q=found.query_starts,
                cu_seqlens_kv=found.key_starts,
                max_seqlen_q=found.longest_query,
                max_seqlen_kv=found.longest_key,
                pad_between_seqs=False,
            )
        return out_QX.view(query_QND.shape)

    return kernel

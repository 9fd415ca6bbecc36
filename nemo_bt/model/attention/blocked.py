"""Attention over the segments of a stream in blocks of query rows that stay in the cache of a CPU core.

torch's autograd would write a gradient as long as the stream for every slice of it; here every gradient is written
once, in its place. Probabilities are computed again in the backward pass: nothing of size rows x keys is kept.

Shape suffixes: T = tokens in the stream, N = query heads, G = key/value heads, r = N / G, D = head size, R = query
rows of a block, M = R * r, K = keys of a block, S = tokens of a segment, t = rows of the stream that this rank holds
(T without context parallelism), Q = query rows of the whole call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nemo_bt.batching.context_shards import ContextShard
from nemo_bt.model.attention.segments import AttentionRule, Block, scored_here, segments_of

BLOCK_ROWS = 128
"""Query rows of a block; their scores of 8 heads against 700 keys are 2.9 MB."""


def blocked_attention(
    query_tND: Tensor, key_TGD: Tensor, value_TGD: Tensor, segments_C5: Tensor, rule: AttentionRule, shard: ContextShard
) -> Tensor:
    """Let every continuation attend causally to its prefix and itself, in fp32.

    Args:
        segments_C5: `PairStream.segments_C5`, on the CPU.
        shard: rows of this rank.

    Returns:
        [Q, N, D] in the dtype of the query: Q = t with zeros where there is no segment; for `only_scored` one row for
        each scored token that this rank holds, C without context parallelism.
    """
    floats = (x.float() for x in (query_tND, key_TGD, value_TGD))
    out_QND: Tensor = _BlockedAttention.apply(*floats, segments_C5, rule, shard)  # type: ignore[no-untyped-call]
    return out_QND.to(query_tND.dtype)


class _BlockedAttention(torch.autograd.Function):
    """Heads that read one key head stand together, [G, t, r, D]: a block of rows is one matrix a key head."""

    @staticmethod
    def forward(
        ctx: Any,
        query_tND: Tensor,
        key_TGD: Tensor,
        value_TGD: Tensor,
        segments_C5: Tensor,
        rule: AttentionRule,
        shard: ContextShard,
    ) -> Tensor:
        query_GtrD = _by_key_head(query_tND, key_TGD.shape[1]).mul_(rule.scale)
        key_GTD = key_TGD.transpose(0, 1).contiguous()
        value_GTD = value_TGD.transpose(0, 1).contiguous()
        ctx.save_for_backward(query_GtrD, key_GTD, value_GTD)
        ctx.segments_C5 = segments_C5
        ctx.rule = rule
        ctx.shard = shard
        num_rows = len(scored_here(segments_C5, shard)[0]) if rule.only_scored else len(query_tND)
        out_GQrD = query_GtrD.new_zeros(len(key_GTD), num_rows, *query_GtrD.shape[2:])
        for segment in segments_of(segments_C5, rule.only_scored, shard):
            key_GSD = segment.of(key_GTD)
            value_GSD = segment.of(value_GTD)
            for block in segment.blocks(BLOCK_ROWS, rule.window, shard):
                query_GMD = query_GtrD[:, block.rows].flatten(1, 2)
                probs_GMK, _ = _probabilities(query_GMD, key_GSD[:, block.keys], block, rule.softcap)
                out_GQrD[:, block.out_rows].flatten(1, 2).copy_(torch.bmm(probs_GMK, value_GSD[:, block.keys]))
        return _by_row(out_GQrD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query_GtrD, key_GTD, value_GTD = ctx.saved_tensors
        rule = ctx.rule
        shard = ctx.shard
        grad_out_GQrD = _by_key_head(grads[0], len(key_GTD))
        grad_query, grad_key, grad_value = (torch.zeros_like(x) for x in (query_GtrD, key_GTD, value_GTD))
        for segment in segments_of(ctx.segments_C5, rule.only_scored, shard):
            key_GSD = segment.of(key_GTD)
            value_GSD = segment.of(value_GTD)
            for block in segment.blocks(BLOCK_ROWS, rule.window, shard):
                query_GMD = query_GtrD[:, block.rows].flatten(1, 2)
                grad_out_GMD = grad_out_GQrD[:, block.out_rows].flatten(1, 2)
                probs_GMK, tanh_GMK = _probabilities(query_GMD, key_GSD[:, block.keys], block, rule.softcap)
                segment.add_to(grad_value, block.keys, torch.bmm(probs_GMK.transpose(1, 2), grad_out_GMD))
                grad_GMK = torch.bmm(grad_out_GMD, value_GSD[:, block.keys].transpose(1, 2))
                torch.ops.aten._softmax_backward_data.out(grad_GMK, probs_GMK, -1, probs_GMK.dtype, grad_input=grad_GMK)
                if tanh_GMK is not None:
                    grad_GMK.mul_(1 - tanh_GMK**2)
                grad_query[:, block.rows].flatten(1, 2).copy_(torch.bmm(grad_GMK, key_GSD[:, block.keys]))
                segment.add_to(grad_key, block.keys, torch.bmm(grad_GMK.transpose(1, 2), query_GMD))
        grad_query.mul_(rule.scale)
        return _by_row(grad_query), grad_key.transpose(0, 1), grad_value.transpose(0, 1), None, None, None


def _by_key_head(x_TND: Tensor, num_key_heads: int) -> Tensor:
    """Copy [T, N, D] as [G, T, r, D]."""
    num_rows, num_heads, head_size = x_TND.shape
    by_head = x_TND.reshape(num_rows, num_key_heads, num_heads // num_key_heads, head_size).transpose(0, 1)
    return by_head.clone(memory_format=torch.contiguous_format)


def _by_row(x_GTrD: Tensor) -> Tensor:
    """Copy [G, T, r, D] as [T, N, D]."""
    return x_GTrD.transpose(0, 1).flatten(1, 2)


def _probabilities(
    query_GMD: Tensor, key_GKD: Tensor, block: Block, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Compute the softmax over the keys that each row may see, and the tanh of a soft cap."""
    logits_GMK = torch.bmm(query_GMD, key_GKD.transpose(1, 2))
    tanh_GMK = None
    if softcap:
        tanh_GMK = torch.tanh(logits_GMK / softcap)
        logits_GMK = tanh_GMK * softcap
    logits_GRrK = logits_GMK.view(len(logits_GMK), block.num_rows, -1, block.num_keys)
    if block.window:
        hidden_RK = block.hidden_keys(logits_GMK.device)
        assert hidden_RK is not None, "a window hides keys"
        logits_GRrK.masked_fill_(hidden_RK[:, None], float("-inf"))
    elif block.num_rows > 1:
        logits_GRrK[..., block.num_before :] += _minus_infinity_above(block.num_rows, logits_GMK.device)
    return torch.softmax(logits_GMK, -1, out=logits_GMK), tanh_GMK


@lru_cache(maxsize=2 * BLOCK_ROWS)
def _minus_infinity_above(num_rows: int, device: torch.device) -> Tensor:
    """Make a mask, [R, 1, R]: -inf above the diagonal, else 0."""
    return torch.full((num_rows, num_rows), float("-inf"), device=device).triu_(1)[:, None]

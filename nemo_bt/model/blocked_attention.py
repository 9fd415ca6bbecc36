"""Attention over the segments of a stream in blocks of query rows that stay in the cache of a CPU core.

torch's autograd would write a gradient as long as the stream for every slice of it; here every gradient is written
once, in its place. Probabilities are computed again in the backward pass: nothing of size rows x keys is kept.

Shape suffixes: T = tokens in the stream, N = query heads, G = key/value heads, D = head size, R = query rows of a
block, M = R * N / G, K = keys of a block, S = tokens of a segment, Q = query rows of the whole call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_bt.model.segments import AttentionRule, Block, segments_of

BLOCK_ROWS = 128
"""Query rows of a block: scores of 8 heads against 700 keys are 2.9 MB."""


def blocked_attention(
    query_TND: Tensor, key_TGD: Tensor, value_TGD: Tensor, segments_C4: Tensor, rule: AttentionRule
) -> Tensor:
    """Causal attention of every continuation over its prefix and itself, computed in fp32.

    Args:
        query_TND: [T, N, D].
        key_TGD: [T, G, D].
        value_TGD: [T, G, D].
        segments_C4: of the stream, [C, 4], on the CPU.
        rule: of this layer.

    Returns:
        [Q, N, D] in the dtype of the query: Q = T with zeros where there is no segment, or Q = C for `only_scored`.
    """
    floats = (x.float() for x in (query_TND, key_TGD, value_TGD))
    out_QND: Tensor = _BlockedAttention.apply(*floats, segments_C4, rule)
    return out_QND.to(query_TND.dtype)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments_C4: Tensor, rule: AttentionRule
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.segments_C4, ctx.rule = segments_C4, rule
        out_QND = query.new_zeros(len(segments_C4) if rule.only_scored else len(query), *query.shape[1:])
        for segment in segments_of(segments_C4, rule.only_scored):
            key_SGD, value_SGD = segment.of(key), segment.of(value)
            for block in segment.blocks(BLOCK_ROWS, rule.window):
                query_GMD = _by_key_head(query[block.rows], key.shape[1]).mul_(rule.scale)
                probs_GMK, _ = _probabilities(query_GMD, key_SGD[block.keys], block, rule.softcap)
                out_GMD = torch.bmm(probs_GMK, value_SGD[block.keys].transpose(0, 1))
                out_QND[block.out_rows] = _by_row(out_GMD, block.num_rows)
        return out_QND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (query, key, value), rule, num_heads = ctx.saved_tensors, ctx.rule, ctx.saved_tensors[1].shape[1]
        grad_query, grad_key, grad_value = (torch.zeros_like(x) for x in (query, key, value))
        for segment in segments_of(ctx.segments_C4, rule.only_scored):
            key_SGD, value_SGD = segment.of(key), segment.of(value)
            grad_key_GSD, grad_value_GSD = (torch.zeros_like(x.transpose(0, 1)) for x in (key_SGD, value_SGD))
            for block in segment.blocks(BLOCK_ROWS, rule.window):
                query_GMD = _by_key_head(query[block.rows], num_heads).mul_(rule.scale)
                grad_out_GMD = _by_key_head(grads[0][block.out_rows], num_heads)
                probs_GMK, tanh_GMK = _probabilities(query_GMD, key_SGD[block.keys], block, rule.softcap)
                grad_value_GSD[:, block.keys] += torch.bmm(probs_GMK.transpose(1, 2), grad_out_GMD)
                grad_GMK = torch.bmm(grad_out_GMD, value_SGD[block.keys].permute(1, 2, 0))
                torch.ops.aten._softmax_backward_data.out(grad_GMK, probs_GMK, -1, probs_GMK.dtype, grad_input=grad_GMK)
                if tanh_GMK is not None:
                    grad_GMK.mul_(1 - tanh_GMK**2)
                grad_query_GMD = torch.bmm(grad_GMK, key_SGD[block.keys].transpose(0, 1)).mul_(rule.scale)
                grad_query[block.rows] = _by_row(grad_query_GMD, block.num_rows)
                grad_key_GSD[:, block.keys] += torch.bmm(grad_GMK.transpose(1, 2), query_GMD)
            segment.add_to(grad_key, grad_key_GSD.transpose(0, 1))
            segment.add_to(grad_value, grad_value_GSD.transpose(0, 1))
        return grad_query, grad_key, grad_value, None, None


def _by_key_head(x_RND: Tensor, num_key_heads: int) -> Tensor:
    """[R, N, D] -> a copy as [G, M, D]: rows of all query heads that read one key head."""
    num_rows, num_heads, head_size = x_RND.shape
    by_head = x_RND.view(num_rows, num_key_heads, num_heads // num_key_heads, head_size).permute(1, 2, 0, 3)
    return by_head.clone(memory_format=torch.contiguous_format).view(num_key_heads, -1, head_size)


def _by_row(x_GMD: Tensor, num_rows: int) -> Tensor:
    """[G, M, D] -> [R, N, D], a copy."""
    by_head = x_GMD.view(len(x_GMD), -1, num_rows, x_GMD.shape[2])
    return by_head.permute(2, 0, 1, 3).reshape(num_rows, -1, x_GMD.shape[2])


def _probabilities(
    query_GMD: Tensor, key_KGD: Tensor, block: Block, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Softmax over the keys that each row may see, and the tanh of a soft cap."""
    logits_GMK = torch.bmm(query_GMD, key_KGD.permute(1, 2, 0))
    tanh_GMK = None
    if softcap:
        tanh_GMK = torch.tanh(logits_GMK / softcap)
        logits_GMK = tanh_GMK * softcap
    hidden_RK = block.hidden_keys(logits_GMK.device)
    if hidden_RK is not None:
        first = 0 if block.window else block.num_before  # without a window only the block's own keys can be hidden
        own = logits_GMK.view(-1, block.num_rows, block.num_keys)[:, :, first:]
        own.masked_fill_(hidden_RK[:, first:], float("-inf"))
    return torch.softmax(logits_GMK, -1, out=logits_GMK), tanh_GMK

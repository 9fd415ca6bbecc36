"""A stream to attend over, and attention on it by a dense mask and sequence by sequence."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.flex_attention import flex_attention
from torch.nn.attention.flex_attention import BlockMask

from nemo_bt.batching.context_shards import context_shard
from nemo_bt.model.attention.flex import score_change
from nemo_bt.model.attention.segments import AttentionRule
from nemo_bt.model.attention.varlen import Kernel, Sequences, varlen_attention

HEADS, KEY_HEADS, SIZE = 4, 2, 8

SEGMENTS = torch.tensor(
    [
        [0, 5, 5, 12, 1],
        [0, 5, 12, 13, 1],
        [0, 5, 13, 21, 2],
        [21, 21, 21, 22, 0],
        [22, 24, 24, 40, 1],
        [22, 24, 40, 45, 1],
    ],
    dtype=torch.int32,
)
"""Three continuations of one prefix, a lone token, a pair; three rows of padding follow."""

NUM_TOKENS, NUM_FILLED = 48, 45

ALL = context_shard(NUM_TOKENS)

RULES = {
    "all": AttentionRule(0.3),
    "window": AttentionRule(0.3, window=4),
    "window of one": AttentionRule(0.3, window=1),
    "softcap": AttentionRule(0.3, softcap=2.0),
    "window and softcap": AttentionRule(0.3, window=6, softcap=2.0),
}


def visible(window: int) -> Tensor:
    """[T, T]: may row i see key j, written down token by token."""
    mask = torch.zeros(NUM_TOKENS, NUM_TOKENS, dtype=torch.bool)
    for prefix_start, prefix_end, start, end, _ in SEGMENTS.tolist():
        sequence = [*range(prefix_start, prefix_end), *range(start, end)]
        for i, row in enumerate(sequence):
            for j, key in enumerate(sequence[: i + 1]):
                mask[row, key] |= not window or i - j < window
    return mask


def dense(query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    key, value = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (key, value))
    logits = torch.einsum("tnd,snd->nts", query, key) * rule.scale
    if rule.softcap:
        logits = rule.softcap * torch.tanh(logits / rule.softcap)
    weights = logits.masked_fill(~visible(rule.window), float("-inf")).softmax(-1).nan_to_num()
    return torch.einsum("nts,snd->tnd", weights, value)[:NUM_FILLED]


def sequence_by_sequence(rule: AttentionRule) -> Kernel:
    """What kernels for sequences of different lengths promise: causal, aligned at the bottom right, with a window."""

    def kernel(query_QND: Tensor, key_KGD: Tensor, value_KGD: Tensor, found: Sequences) -> Tensor:
        out = []
        bounds = [*zip(found.query_starts.tolist(), found.key_starts.tolist(), strict=True)]
        for (first, first_key), (last, last_key) in pairwise(bounds):
            assert 0 < last - first <= last_key - first_key
            assert last - first <= found.longest_query <= found.longest_key
            assert last_key - first_key <= found.longest_key
            key, value = (x[first_key:last_key].repeat_interleave(HEADS // KEY_HEADS, 1) for x in (key_KGD, value_KGD))
            logits = torch.einsum("qnd,knd->nqk", query_QND[first:last], key) * rule.scale
            age = torch.arange(last - first)[:, None] + (last_key - first_key - last + first) - torch.arange(len(key))
            seen = (age >= 0) & (age < (rule.window or len(key)))
            out.append(torch.einsum("nqk,knd->qnd", logits.masked_fill(~seen, float("-inf")).softmax(-1), value))
        return torch.cat(out)

    return kernel


def varlen(query: Tensor, key: Tensor, value: Tensor, segments: Tensor, rule: AttentionRule, shard: Any) -> Tensor:
    return varlen_attention(query, key, value, segments, rule, shard, sequence_by_sequence(rule))


def dense_flex(query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, mask: BlockMask) -> Tensor:
    """What FlexAttention means, as torch writes it down: scores of all rows and keys, with gradients on CPUs too."""
    change = score_change(rule.softcap) or (lambda score, *_: score)
    out: Tensor = flex_attention(query, key, value, change, mask.as_tuple(), rule.scale, {})[0]
    return out


def inputs() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(NUM_TOKENS, n, SIZE) for n in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [torch.randn(s, generator=generator, requires_grad=True) for s in shapes], torch.randn(
        NUM_FILLED, HEADS, SIZE, generator=generator
    )


def check_equal(got: Tensor, expected: Tensor, tensors: list[Tensor], grad: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    for mine, other in zip(*(torch.autograd.grad(x, tensors, grad) for x in (got, expected)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)

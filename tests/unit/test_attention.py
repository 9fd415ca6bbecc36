"""Attention on its own, by each of its implementations, against a dense mask."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_bt.batching.context_shards import context_shard
from nemo_bt.model.attention import blocked as blocked_attention
from nemo_bt.model.attention.segments import AttentionRule, filled_up, scored_here, segments_of
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


def inputs() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(NUM_TOKENS, n, SIZE) for n in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [torch.randn(s, generator=generator, requires_grad=True) for s in shapes], torch.randn(
        NUM_FILLED, HEADS, SIZE, generator=generator
    )


@pytest.mark.parametrize("block_rows", [1, 3, 128])
@pytest.mark.parametrize("name", RULES)
def test_blocked_attention_equals_a_dense_mask(name: str, block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_attention, "BLOCK_ROWS", block_rows)
    tensors, grad = inputs()
    got = blocked_attention.blocked_attention(*tensors, SEGMENTS, RULES[name], ALL)
    assert not got[NUM_FILLED:].any()
    check_equal(got[:NUM_FILLED], dense(*tensors, RULES[name]), tensors, grad)


@pytest.mark.parametrize("name", [name for name in RULES if "softcap" not in name])
def test_kernel_attention_equals_a_dense_mask(name: str) -> None:
    from nemo_bt.cpu import device as cpu

    cpu.install()
    from nemo_bt.model.attention.module import kernel_attention

    tensors, grad = inputs()
    got = kernel_attention(*tensors, SEGMENTS, RULES[name], ALL)
    check_equal(got[:NUM_FILLED], dense(*tensors, RULES[name]), tensors, grad)
    with pytest.raises(ValueError, match="expected no softcap, got one"):
        kernel_attention(*tensors, SEGMENTS, RULES["softcap"], ALL)


@pytest.mark.parametrize("name", [name for name in RULES if "softcap" not in name])
def test_sequences_for_kernels_equal_a_dense_mask(name: str) -> None:
    tensors, grad = inputs()
    got = varlen(*tensors, SEGMENTS, RULES[name], ALL)
    assert got.shape == (NUM_TOKENS, HEADS, SIZE)
    assert not got[NUM_FILLED:].any()
    check_equal(got[:NUM_FILLED], dense(*tensors, RULES[name]), tensors, grad)
    with pytest.raises(ValueError, match="expected no softcap, got one"):
        varlen(*tensors, SEGMENTS, RULES["softcap"], ALL)


@pytest.mark.parametrize("name", RULES)
def test_scored_rows_alone_equal_those_rows_of_all(name: str) -> None:
    tensors, _ = inputs()
    rule = RULES[name]
    only = AttentionRule(rule.scale, rule.window, rule.softcap, only_scored=True)
    got = blocked_attention.blocked_attention(*tensors, SEGMENTS, only, ALL)
    _, rows = scored_here(SEGMENTS, ALL)
    assert rows == [11, 12, 20, 21, 39, 44]
    check_equal(got, dense(*tensors, rule)[rows], tensors, torch.ones_like(got))


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("only_scored", [False, True])
@pytest.mark.parametrize("name", [name for name in RULES if "softcap" not in name])
@pytest.mark.parametrize("kernel", ["blocked", "kernel", "varlen"])
def test_ranks_that_hold_parts_of_a_stream_give_the_whole(
    kernel: str, name: str, only_scored: bool, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo_bt.cpu import device as cpu

    cpu.install()
    from nemo_bt.model.attention.module import kernel_attention

    monkeypatch.setattr(blocked_attention, "BLOCK_ROWS", 2)
    attend = {"blocked": blocked_attention.blocked_attention, "kernel": kernel_attention, "varlen": varlen}[kernel]
    (query, key, value), _ = inputs()
    rule = replace(RULES[name], only_scored=only_scored)
    whole = attend(query, key, value, SEGMENTS, rule, ALL)
    grad = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(whole, (query, key, value), grad)
    found = [torch.zeros_like(x) for x in expected]
    covered = torch.zeros(len(whole))
    for rank in range(num_ranks):
        shard = context_shard(NUM_TOKENS, num_ranks, rank)
        rows = torch.cat([torch.arange(run.start, run.stop) for run in shard.runs])
        numbers = torch.tensor(scored_here(SEGMENTS, shard)[0], dtype=torch.int64) if only_scored else rows
        own = attend(query[rows], key, value, SEGMENTS, rule, shard)
        torch.testing.assert_close(own, whole[numbers], rtol=1e-5, atol=1e-6)
        covered[numbers] += 1
        for total, part in zip(found, torch.autograd.grad(own, (query, key, value), grad[numbers]), strict=True):
            total += part
    assert (covered == 1).all()
    for total, other in zip(found, expected, strict=True):
        torch.testing.assert_close(total, other, rtol=1e-5, atol=1e-6)


def check_equal(got: Tensor, expected: Tensor, tensors: list[Tensor], grad: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    for mine, other in zip(*(torch.autograd.grad(x, tensors, grad) for x in (got, expected)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_attention_of_bf16_is_that_of_its_values_in_fp32() -> None:
    tensors, _ = inputs()
    halves = [x.detach().bfloat16() for x in tensors]
    got = blocked_attention.blocked_attention(*halves, SEGMENTS, RULES["all"], ALL)
    exact = blocked_attention.blocked_attention(*(x.float() for x in halves), SEGMENTS, RULES["all"], ALL)
    assert torch.equal(got, exact.bfloat16())


@pytest.mark.parametrize("attend", [blocked_attention.blocked_attention, varlen])
@pytest.mark.parametrize("only_scored", [False, True])
def test_a_stream_of_filling_alone_gives_zeros_and_zero_gradients(
    only_scored: bool, attend: Callable[..., Tensor]
) -> None:
    tensors, _ = inputs()
    got = attend(*tensors, SEGMENTS[:0], AttentionRule(0.3, only_scored=only_scored), ALL)
    assert got.shape == (0 if only_scored else NUM_TOKENS, HEADS, SIZE)
    assert not got.any()
    assert not any(x.any() for x in torch.autograd.grad(got.sum(), tensors))


def test_scored_rows_are_filled_up_to_a_multiple_and_never_none() -> None:
    assert filled_up([11, 12, 20, 21, 39, 44], 4).tolist() == [11, 12, 20, 21, 39, 44, 44, 44]
    assert filled_up([], 2).tolist() == [0, 0]


def test_the_first_continuation_takes_its_prefix_along() -> None:
    segments = list(segments_of(SEGMENTS, False, ALL))
    assert [(s.num_prefix, s.own.start, s.own.stop) for s in segments[:3]] == [(0, 0, 12), (5, 12, 13), (5, 13, 21)]

"""Kernels on their own: attention against a dense mask, norm and SwiGLU against formulas and finite differences."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from nemo_bt.model import blocked_attention, cpu_kernels
from nemo_bt.model.held_rows import CHUNKS_PER_RANK, held_rows, stream_multiple
from nemo_bt.model.segments import AttentionRule, filled_up, scored_here, segments_of

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
"""Three continuations of one prefix, a lone token, a pair; three rows of filling follow."""
NUM_TOKENS, NUM_FILLED = 48, 45
ALL = held_rows(NUM_TOKENS)
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
    from nemo_bt import cpu

    cpu.install()
    from nemo_bt.model.attention import kernel_attention

    tensors, grad = inputs()
    got = kernel_attention(*tensors, SEGMENTS, RULES[name], ALL)
    check_equal(got[:NUM_FILLED], dense(*tensors, RULES[name]), tensors, grad)
    with pytest.raises(ValueError, match="expected no softcap, got one"):
        kernel_attention(*tensors, SEGMENTS, RULES["softcap"], ALL)


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
@pytest.mark.parametrize("kernel", ["blocked", "kernel"])
def test_ranks_that_hold_parts_of_a_stream_give_the_whole(
    kernel: str, name: str, only_scored: bool, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo_bt import cpu

    cpu.install()
    from nemo_bt.model.attention import kernel_attention

    monkeypatch.setattr(blocked_attention, "BLOCK_ROWS", 2)
    attend = blocked_attention.blocked_attention if kernel == "blocked" else kernel_attention
    (query, key, value), _ = inputs()
    rule = replace(RULES[name], only_scored=only_scored)
    whole = attend(query, key, value, SEGMENTS, rule, ALL)
    grad = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(whole, (query, key, value), grad)
    found = [torch.zeros_like(x) for x in expected]
    covered = torch.zeros(len(whole))
    for rank in range(num_ranks):
        held = held_rows(NUM_TOKENS, num_ranks, rank)
        rows = torch.cat([torch.arange(run.start, run.stop) for run in held.runs])
        numbers = torch.tensor(scored_here(SEGMENTS, held)[0], dtype=torch.int64) if only_scored else rows
        own = attend(query[rows], key, value, SEGMENTS, rule, held)
        torch.testing.assert_close(own, whole[numbers], rtol=1e-5, atol=1e-6)
        covered[numbers] += 1
        for total, part in zip(found, torch.autograd.grad(own, (query, key, value), grad[numbers]), strict=True):
            total += part
    assert (covered == 1).all()
    for total, other in zip(found, expected, strict=True):
        torch.testing.assert_close(total, other, rtol=1e-5, atol=1e-6)


def test_ranks_hold_equal_parts_of_early_and_late_rows() -> None:
    assert [(run.start, run.stop, run.local) for run in held_rows(32, 2, 0).runs] == [
        (0, 2, 0), (6, 10, 2), (14, 18, 6), (22, 26, 10), (30, 32, 14),
    ]  # fmt: skip
    assert [run.local for run in held_rows(32, 2, 1).runs] == [0, 4, 8, 12]
    assert held_rows(32, 2, 1).local(3) == 1
    assert held_rows(32, 2, 1).local(6) is None
    assert CHUNKS_PER_RANK == 8
    assert [stream_multiple(1, 1), stream_multiple(1, 4), stream_multiple(2, 1), stream_multiple(3, 16)] == [
        1,
        4,
        16,
        48,
    ]
    causal = torch.arange(1, 257)
    for num_ranks in (2, 4, 8):
        costs = [
            sum(int(causal[run.start : run.stop].sum()) for run in held_rows(256, num_ranks, rank).runs)
            for rank in range(num_ranks)
        ]
        assert len(set(costs)) == 1


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


@pytest.mark.parametrize("only_scored", [False, True])
def test_a_stream_of_filling_alone_gives_zeros_and_zero_gradients(only_scored: bool) -> None:
    tensors, _ = inputs()
    got = blocked_attention.blocked_attention(*tensors, SEGMENTS[:0], AttentionRule(0.3, only_scored=only_scored), ALL)
    assert not got.any()
    assert not any(x.any() for x in torch.autograd.grad(got.sum(), tensors))


def test_scored_rows_are_filled_up_to_a_multiple_and_never_none() -> None:
    assert filled_up([11, 12, 20, 21, 39, 44], 4).tolist() == [11, 12, 20, 21, 39, 44, 0, 0]
    assert filled_up([], 2).tolist() == [0, 0]


def test_the_first_continuation_takes_its_prefix_along() -> None:
    segments = list(segments_of(SEGMENTS, False, ALL))
    assert [(s.num_prefix, s.own.start, s.own.stop) for s in segments[:3]] == [(0, 0, 12), (5, 12, 13), (5, 13, 21)]


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def gated(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


KERNELS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "norm": (lambda x, w: cpu_kernels.rms_norm(x, w, 1e-5), normed, [(7, 1, 6), (6,)]),
    "norm of heads": (lambda x, w: cpu_kernels.rms_norm(x, w, 1e-5), normed, [(5, 1, 3, 4), (4,)]),
    "swiglu": (cpu_kernels.swiglu, gated, [(7, 1, 6)]),
    "no rows": (cpu_kernels.swiglu, gated, [(0, 1, 6)]),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_equal_their_formulas_in_blocks_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, formula, shapes = KERNELS[name]
    args = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    for block_elements in (1, 12, 1_000_000):
        monkeypatch.setattr(cpu_kernels, "_BLOCK_ELEMENTS", block_elements)
        torch.testing.assert_close(kernel(*args), formula(*args))
        assert gradcheck(kernel, args)


def test_kernels_of_bf16_stay_as_close_as_torchs_own() -> None:
    x: Any = torch.randn(64, 1, 32).bfloat16()
    weight = torch.randn(32).bfloat16()
    exact = normed(x.float(), weight.float())
    mine, own = cpu_kernels.rms_norm(x, weight, 1e-5), F.rms_norm(x, (32,), weight, 1e-5)
    assert mine.dtype == torch.bfloat16
    assert (mine.float() - exact).norm() <= 1.5 * (own.float() - exact).norm()
    exact = gated(x.float())
    plain = F.silu(x.chunk(2, dim=-1)[0]) * x.chunk(2, dim=-1)[1]
    assert (cpu_kernels.swiglu(x).float() - exact).norm() <= 1.5 * (plain.float() - exact).norm()

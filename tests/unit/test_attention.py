"""Attention on its own, by each of its implementations, against a dense mask."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nemo_bt.model.attention import blocked as blocked_attention
from nemo_bt.model.attention.segments import AttentionRule, filled_up, scored_here, segments_of
from tests.support.attention import (
    ALL,
    HEADS,
    NUM_FILLED,
    NUM_TOKENS,
    RULES,
    SEGMENTS,
    SIZE,
    check_equal,
    dense,
    inputs,
    varlen,
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

"""Attention by the kernels behind Megatron's module, and over ranks that hold parts of a stream."""

from dataclasses import replace

import pytest
import torch

from nemo_bt.batching.context_shards import context_shard
from nemo_bt.model.attention import blocked as blocked_attention
from nemo_bt.model.attention.segments import scored_here
from tests.support.attention import (
    ALL,
    NUM_FILLED,
    NUM_TOKENS,
    RULES,
    SEGMENTS,
    check_equal,
    dense,
    inputs,
    varlen,
)


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

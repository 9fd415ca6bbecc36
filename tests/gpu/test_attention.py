"""Each of a GPU's kernels against attention in blocks in fp32, on streams of pairs: results and gradients."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nemo_bt.batching.context_shards import ContextShard, context_shard
from nemo_bt.batching.stream import TokenGroup, build_stream
from nemo_bt.model.attention.blocked import blocked_attention
from nemo_bt.model.attention.flex import segment_flex_attention
from nemo_bt.model.attention.segments import AttentionRule
from nemo_bt.model.attention.varlen import Sequences, flash_kernel, fused_kernel, varlen_attention
from tests.support.gpu import DEVICE, needs_engine, needs_gpu

BF16_ERROR = 2.0**-7
"""Of a norm: kernels round probabilities, their gradients and what comes out, each by up to 2^-9."""


def segments(seed: int, num_groups: int = 6) -> tuple[Tensor, int]:
    """Of a stream of groups of two and three, some without a prefix, with padding at its end."""
    random = np.random.default_rng(seed)

    def tokens(least: int, most: int) -> Any:
        return np.ones(random.integers(least, most), np.int32)

    groups = [
        TokenGroup(tokens(0, 300), tuple(tokens(1, 200) for _ in range(random.integers(2, 4))))
        for _ in range(num_groups)
    ]
    stream = build_stream(groups, pad_id=0, multiple_of=128)
    return stream.segments_C5, stream.tokens_1T.shape[1]


def by_backend(backend: str, rule: AttentionRule, heads: int, key_heads: int, size: int) -> Callable[..., Tensor]:
    from nemo_bt.model.attention.module import kernel_attention

    if backend == "local":
        return kernel_attention
    if backend == "flex":
        return segment_flex_attention
    kernel = flash_kernel(rule) if backend == "flash" else fused_kernel(rule, heads, key_heads, size)
    return partial(varlen_attention, kernel=kernel)


RULES = {
    "all": AttentionRule(0.1),
    "scored rows": AttentionRule(0.1, only_scored=True),
    "window": AttentionRule(0.1, window=50),
}
CAPPED = {f"{name} and soft cap": replace(rule, softcap=2.0) for name, rule in RULES.items()}
CASES = [
    pytest.param("local", name, dtype, id=f"local, {name}, {dtype}") for name in RULES for dtype in ("fp32", "bf16")
]
CASES += [pytest.param("flash", name, "bf16", id=f"flash, {name}", marks=needs_gpu) for name in RULES]
CASES += [pytest.param("fused", n, "bf16", id=f"fused, {n}", marks=needs_engine) for n in RULES if n != "window"]
CASES += [
    pytest.param("flex", name, dtype, id=f"flex, {name}, {dtype}", marks=needs_gpu)
    for name in CAPPED
    for dtype in ("fp32", "bf16")
]


@pytest.mark.parametrize("heads", [(8, 2, 128), (4, 4, 64)], ids=["8 heads, 2 key heads of 128", "4 heads of 64"])
@pytest.mark.parametrize(("backend", "name", "dtype"), CASES)
def test_kernels_equal_attention_in_blocks(
    nemo: None, backend: str, name: str, dtype: str, heads: tuple[int, int, int]
) -> None:
    num_heads, num_key_heads, size = heads
    segments_C5, num_tokens = segments(seed=num_heads)
    generator = torch.Generator().manual_seed(1)
    shapes = [(num_tokens, n, size) for n in (num_heads, num_key_heads, num_key_heads)]
    wanted = torch.float32 if dtype == "fp32" else torch.bfloat16
    rounded = [torch.randn(shape, generator=generator).to(DEVICE, wanted) for shape in shapes]
    mine, exact = ([x.detach().to(kind).requires_grad_() for x in rounded] for kind in (wanted, torch.float32))
    rule, shard = (RULES | CAPPED)[name], context_shard(num_tokens)
    found = by_backend(backend, rule, *heads)(*mine, segments_C5, rule, shard)
    expected = blocked_attention(*exact, segments_C5, rule, shard)
    grad = torch.randn(expected.shape, generator=generator).to(DEVICE)
    last = int(segments_C5[:, 3].max())
    grad[last:] = 0 if not rule.only_scored else grad[last:]
    found.backward(grad.to(wanted))
    expected.backward(grad.to(wanted).float())
    assert found.isfinite().all()
    pairs = [(found, expected), *((a.grad, b.grad) for a, b in zip(mine, exact, strict=True))]
    for got, other in pairs:
        error = (got.float() - other).norm() / other.norm()
        assert error < (1e-5 if dtype == "fp32" else BF16_ERROR)


def test_gradients_of_a_prefix_are_added_up_in_fp32() -> None:
    """600 continuations of one token each behind a prefix of one: a GPU that adds ones up in bf16 ends at 256."""
    segments_C5 = torch.tensor([[0, 1, i, i + 1, 1] for i in range(1, 601)], dtype=torch.int32)
    query, key, value = (torch.zeros(601, n, 8, device=DEVICE).bfloat16().requires_grad_() for n in (4, 2, 2))

    def every_value(query_QND: Tensor, key_KGD: Tensor, value_KGD: Tensor, found: Sequences) -> Tensor:
        return query_QND + value_KGD.sum(0).repeat_interleave(2, 0) / 601 / 2

    got = varlen_attention(query, key, value, segments_C5, RULES["all"], context_shard(601), every_value)
    (grad,) = torch.autograd.grad(got.float().sum(), value)
    assert grad[0].unique().tolist() == [600]
    assert grad[1:].unique().tolist() == [1]


@needs_gpu
@pytest.mark.parametrize("backend", ["flash", "flex", pytest.param("fused", marks=needs_engine)])
def test_rows_of_a_context_parallel_rank(nemo: None, backend: str) -> None:
    segments_C5, num_tokens = segments(seed=3)
    shapes = [(num_tokens, n, 64) for n in (4, 2, 2)]
    query, key, value = (torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) for shape in shapes)
    rule = CAPPED["all and soft cap"] if backend == "flex" else RULES["all"]
    whole = blocked_attention(query.float(), key.float(), value.float(), segments_C5, rule, context_shard(num_tokens))
    attend = by_backend(backend, rule, 4, 2, 64)
    for rank in range(2):
        shard: ContextShard = context_shard(num_tokens, 2, rank)
        rows = torch.cat([torch.arange(run.start, run.stop) for run in shard.runs])
        found = attend(query[rows], key, value, segments_C5, rule, shard)
        assert (found.float() - whole[rows]).norm() / whole[rows].norm() < BF16_ERROR

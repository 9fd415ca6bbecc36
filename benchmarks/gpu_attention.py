"""Ways to compute attention over streams of real pairs: speed, forward and backward, and distance from fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.attention_candidates import two_calls, two_calls_of
from benchmarks.gpu_machine import Host, spread
from benchmarks.gpu_streams import real_groups, streams_of
from benchmarks.results_file import Figure
from nemo_bt.batching.context_shards import context_shard
from nemo_bt.batching.stream import PairStream
from nemo_bt.model.attention.blocked import blocked_attention
from nemo_bt.model.attention.flex import segment_flex_attention
from nemo_bt.model.attention.segments import AttentionRule
from nemo_bt.model.attention.varlen import flash_kernel, fused_kernel, varlen_attention

_HEADS = {"1b": (32, 8, 64), "8b": (32, 8, 128)}
_BUDGET_TOKENS = 8192
_NUM_PAIRS = 64
_CALLS = 10
_MOST_ERROR = 2.0**-7
"""Largest error relative to the norm; a way above it is not exact in bf16, whatever its speed."""
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def measure(host: Host) -> list[Figure]:
    """Measure each way's error, and its speed over torch's FlashAttention as one call."""
    return _of_ways(host, ("flash", "fused", "two_calls", "local"), "gpu_attention")


def measure_flex(host: Host) -> list[Figure]:
    """Measure FlexAttention beside the first way, in a part of its own: it compiles, and may fail."""
    return _of_ways(host, ("flash", "flex", "local"), "gpu_attention_flex")


def _of_ways(host: Host, ways: tuple[str, ...], benchmark: str) -> list[Figure]:
    figures = []
    for name in ("hh", "alpaca_eval"):
        streams = streams_of(real_groups(host, name, 4 if host.is_dry else _NUM_PAIRS), _BUDGET_TOKENS)
        for size, heads in _HEADS.items():
            stream = max(streams, key=lambda stream: stream.num_real_tokens)
            if host.is_dry:
                heads = (4, 2, 16)
            figures += list(_of_stream(host, ways, f"{benchmark}/{name}_{size}", stream, heads))
    return figures


def _of_stream(
    host: Host, ways: tuple[str, ...], start: str, stream: PairStream, heads: tuple[int, int, int]
) -> Iterator[Figure]:
    num_tokens = stream.num_real_tokens
    generator = torch.Generator().manual_seed(1)
    shapes = [(num_tokens, n, heads[2]) for n in (heads[0], heads[1], heads[1], heads[0])]
    tensors = [torch.randn(shape, generator=generator).to(host.device, torch.bfloat16) for shape in shapes]
    rule = AttentionRule(heads[2] ** -0.5)
    shard = context_shard(num_tokens)
    exact = _run(partial(blocked_attention, segments_C5=stream.segments_C5, rule=rule, shard=shard), tensors, wide=True)
    seconds: dict[str, list[float]] = {}
    for name, make in _makers(host, stream, num_tokens, rule, heads).items():
        if name not in ways:
            continue
        attend = make()
        error = max(float((a.float() - b).norm() / b.norm()) for a, b in zip(_run(attend, tensors), exact, strict=True))
        yield spread(f"{start}/{name}/error", [error], "of the norm", _MOST_ERROR)
        seconds[name] = host.seconds(partial(_run, attend, tensors), 1 if host.is_dry else _CALLS)
        yield spread(f"{start}/{name}/milliseconds", [1000 * s for s in seconds[name]], "ms")
    first = next(iter(seconds))
    for name, found in seconds.items():
        ratios = [base / own for base, own in zip(seconds[first], found, strict=True)]
        yield spread(f"{start}/{name}/speed_over_{first}", ratios, "ratio")


def _makers(
    host: Host, stream: PairStream, num_tokens: int, rule: AttentionRule, heads: tuple[int, int, int]
) -> dict[str, Callable[[], Attend]]:
    """Give the ways that this device can compute; a CPU has only the product's own, segment by segment."""
    from nemo_bt.model.attention.module import kernel_attention

    segments_C5 = stream.segments_C5
    device = host.device
    of_stream = {"segments_C5": segments_C5, "rule": rule, "shard": context_shard(num_tokens)}
    local = {"local": lambda: partial(kernel_attention, **of_stream)}
    if host.is_dry:
        return local
    return {
        "flash": lambda: partial(varlen_attention, **of_stream, kernel=flash_kernel(rule)),
        "fused": lambda: partial(varlen_attention, **of_stream, kernel=fused_kernel(rule, *heads)),
        "two_calls": lambda: partial(two_calls, calls=two_calls_of(segments_C5, device), scale=rule.scale),
        "flex": lambda: partial(segment_flex_attention, **of_stream),
        **local,
    }


def _run(attend: Attend, tensors: list[Tensor], wide: bool = False) -> list[Tensor]:
    """Compute output and gradients."""
    *inputs, grad = (x.detach().float() if wide else x.detach() for x in tensors)
    inputs = [x.requires_grad_() for x in inputs]
    out = attend(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]

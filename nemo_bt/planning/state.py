"""Bytes of weights, gradients and optimizer state on a rank, as Megatron allocates them.

With a distributed optimizer a rank keeps state for its share of each bucket of `nemo_bt.planning.buffers`. Source:
megatron-core 0.15.3, optimizer/distrib_optimizer.py.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_bt.config.model import Settings
from nemo_bt.planning.buffers import FP32_BYTES, Buffer, activation_bytes, buffers
from nemo_bt.planning.parameters import Parameter
from nemo_bt.training.fused_adam import bounds

_DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
_ON_HOST_BYTES = 2 * FP32_BYTES
"""Of an offloaded parameter beside its moments: a weight and a gradient, both in fp32."""


@dataclass(frozen=True)
class StateBytes:
    """State of one rank, in bytes; `host` is the optimizer's in the memory of the host."""

    weights: int
    gradients: int
    optimizer: int
    host: int = 0


def state_bytes(settings: Settings, parts: Sequence[Sequence[Parameter]], data_rank: int = 0) -> StateBytes:
    """Count what a rank allocates before its first step, and with it.

    An offloaded parameter's main copy stays on the GPU too, unless the optimizer is precision-aware.

    Args:
        parts: what `nemo_bt.planning.parameters.rank_parameters` gives.
        data_rank: number of the rank among data- and context-parallel ranks, which decides its share.
    """
    frozen = sum(one.num_elements for part in parts for one in part if not one.is_trained)
    found = buffers(settings, parts)
    weights = frozen * activation_bytes(settings) + sum(buffer.weight_bytes * buffer.ends[-1] for buffer in found)
    optimizer = host = 0
    for is_expert in (False, True):
        own = [buffer for buffer in found if buffer.is_expert == is_expert]
        kept = [_kept(buffer, _own(settings, buffer, data_rank)) for buffer in own]
        elements, moved = sum(map(sum, kept)), _offloaded(settings, own, kept)
        with_copy = elements - moved if settings.model.optim.use_precision_aware_optimizer else elements
        optimizer += (elements - moved) * _moments_bytes(settings) + with_copy * _main_bytes(settings)
        host += moved * (_moments_bytes(settings) + _ON_HOST_BYTES)
    gradients = sum(buffer.gradient_bytes * buffer.ends[-1] for buffer in found)
    return StateBytes(weights, gradients, optimizer, host)


def step_bytes(settings: Settings, parts: Sequence[Sequence[Parameter]], data_rank: int = 0) -> int:
    """Count the fp32 copies of moments that the optimizer has at once, of moments that are stored in less.

    They become bf16 one by one, each as a tensor of its own first.

    Source: nemo_bt.training.fused_adam; transformer-engine 2.9, pytorch/optimizers/fused_adam.py.
    """
    optim = settings.model.optim
    moments = (optim.exp_avg_dtype, optim.exp_avg_sq_dtype)
    num_copied = sum(_DTYPE_BYTES[dtype] < FP32_BYTES for dtype in moments)
    if not num_copied:
        return 0
    sizes = [size for buffer in buffers(settings, parts) for size in _kept(buffer, _own(settings, buffer, data_rank))]
    copies = num_copied * FP32_BYTES * max(sum(sizes[start:stop]) for start, stop in bounds(sizes))
    return copies + ("bf16" in moments) * _DTYPE_BYTES["bf16"] * max(sizes)


def _own(settings: Settings, buffer: Buffer, data_rank: int) -> int:
    """Give the rank's number among those that share a buffer."""
    return data_rank // (settings.model.expert_model_parallel_size if buffer.is_expert else 1) % buffer.ranks


def _kept(buffer: Buffer, rank: int) -> list[int]:
    """Count the elements of each parameter of which a rank keeps the state: all, or those in its share of a bucket."""
    if not buffer.is_shared:
        return buffer.sizes
    kept = []
    for start, size in zip(buffer.starts, buffer.sizes, strict=True):
        number = bisect_right(buffer.ends, start)
        first, end = ([0, *buffer.ends])[number], buffer.ends[number]
        each = (end - first) // buffer.ranks
        kept.append(max(0, min(first + each * (rank + 1), start + size) - max(first + each * rank, start)))
    return kept


def _offloaded(settings: Settings, own: Sequence[Buffer], kept: Sequence[Sequence[int]]) -> int:
    """Count the elements of which the host has the state: whole parameters, until their share is reached.

    Those whose weights decay come first, each buffer in its order. Source: megatron-core 0.15.3,
    optimizer/cpu_offloading/hybrid_optimizer.py.
    """
    optim = settings.model.optim
    if not optim.optimizer_cpu_offload:
        return 0
    share = optim.optimizer_offload_fraction * sum(map(sum, kept))
    moved = 0
    for decays in (True, False):
        for buffer, sizes in zip(own, kept, strict=True):
            for size, own_decays in zip(reversed(sizes), reversed(buffer.decays), strict=True):
                if own_decays == decays and moved < share:
                    moved += size
    return moved


def _moments_bytes(settings: Settings) -> int:
    optim = settings.model.optim
    return _DTYPE_BYTES[optim.exp_avg_dtype] + _DTYPE_BYTES[optim.exp_avg_sq_dtype]


def _main_bytes(settings: Settings) -> int:
    """Count a main copy in fp32 of weights that are not.

    The precision-aware optimizer keeps only the two bytes of that copy that a weight in bf16 lacks
    (store_param_remainders), but an offloaded one keeps all four, and so does Megatron beside weights in FP8.
    """
    optim = settings.model.optim
    main = FP32_BYTES if activation_bytes(settings) < FP32_BYTES else 0
    keeps_remainders = optim.use_precision_aware_optimizer and not settings.model.fp8_param_gather
    return main // 2 if keeps_remainders and not optim.optimizer_cpu_offload else main

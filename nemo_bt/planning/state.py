"""Bytes of weights, gradients and optimizer state on a rank, as Megatron allocates them.

Each part of a pipeline has one buffer with its parameters in reverse. That of the first part is cut into buckets, which
travel one by one, where gradients are reduced while others are computed. With a distributed optimizer each parameter
starts at a multiple of 64 elements, a bucket ends at a multiple of 128 and of the ranks, and a rank keeps state for its
share of each. Source: megatron-core 0.15.3, distributed/{distributed_data_parallel,param_and_grad_buffer}.py and
optimizer/distrib_optimizer.py.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_bt.config.model import Settings
from nemo_bt.config.parallelism import overlaps
from nemo_bt.planning.parameters import Parameter
from nemo_bt.pretrained.names import EMBEDDING
from nemo_bt.training.fused_adam import bounds

FP32_BYTES = 4
INDEX_BYTES = 8
_DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
_PARAMETER_MULTIPLE = 64
_BUCKET_MULTIPLE = 128
_BUCKET_ELEMENTS = 40_000_000
_BUCKET_ELEMENTS_PER_REPLICA = 1_000_000
"""A bucket ends with the parameter with which it has so many elements, or as many for each data-parallel rank."""
_ON_HOST_BYTES = 2 * FP32_BYTES
"""Of an offloaded parameter beside its moments: a weight and a gradient, both in fp32."""


@dataclass(frozen=True)
class StateBytes:
    """State of one rank, in bytes; `host` is the optimizer's in the memory of the host."""

    weights: int
    gradients: int
    optimizer: int
    host: int = 0


@dataclass(frozen=True)
class Buffer:
    """Parameters of one part of a pipeline that the same ranks share.

    Args:
        is_expert: the parameters are those of experts.
        is_shared: ranks share its optimizer state.
        ranks: number of ranks that share it.
        starts: first element of each parameter.
        sizes: elements of each parameter.
        decays: whether its weights decay: those of matrices do.
        ends: where each bucket ends, with padding; the last is the buffer's end.
        weight_bytes: of one weight.
        gradient_bytes: of one gradient.
    """

    is_expert: bool
    is_shared: bool
    ranks: int
    starts: list[int]
    sizes: list[int]
    decays: list[bool]
    ends: list[int]
    weight_bytes: int
    gradient_bytes: int

    @property
    def buckets(self) -> list[int]:
        """Give the elements of each bucket."""
        return [end - start for start, end in zip([0, *self.ends], self.ends, strict=False)]


def buffers(settings: Settings, parts: Sequence[Sequence[Parameter]]) -> list[Buffer]:
    """List a rank's buffers of what is trained: each part has one of what all ranks hold, and one of its experts."""
    model = settings.model
    is_shared = model.optim.name == "distributed_fused_adam"
    made = []
    for is_expert in (False, True):
        ranks = settings.data_parallel_size * model.context_parallel_size
        ranks //= model.expert_model_parallel_size if is_expert else 1
        ranks //= model.optim.num_distributed_optimizer_instances
        for part in parts:
            own = [one for one in part if one.is_expert == is_expert and one.is_trained]
            sizes = [one.num_elements for one in own]
            if own:
                is_first = any(one.name == EMBEDDING for one in part)
                bucket = bucket_elements(settings) if is_first else None
                starts, ends = buffer_places(sizes, ranks if is_shared else None, bucket)
                decays = [len(one.shape) > 1 for one in own]
                values = activation_bytes(settings), gradient_bytes(settings)
                made.append(Buffer(is_expert, is_shared, ranks, starts, sizes, decays, ends, *values))
    return made


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


def on_gpu(settings: Settings) -> bool:
    """Tell whether layers are counted as Transformer Engine's: on all but a CPU run."""
    return settings.trainer.accelerator != "cpu"


def activation_bytes(settings: Settings) -> int:
    """Give the bytes of an element of weights and activations."""
    return FP32_BYTES if settings.trainer.precision == "32" else 2


def gradient_bytes(settings: Settings) -> int:
    """Give the bytes of an element of the gradient."""
    return FP32_BYTES if settings.model.optim.grad_reduce_in_fp32 else activation_bytes(settings)


def bucket_elements(settings: Settings) -> int | None:
    """Give the elements with which a bucket ends; None where gradients go as one."""
    reduces, _ = overlaps(settings, on_gpu(settings))
    if not reduces:
        return None
    usual = max(_BUCKET_ELEMENTS, _BUCKET_ELEMENTS_PER_REPLICA * settings.data_parallel_size)
    return settings.model.optim.bucket_size or usual


def buffer_places(sizes: Sequence[int], ranks: int | None, bucket: int | None = None) -> tuple[list[int], list[int]]:
    """Find where the parameters of a buffer start, in the order of the parameters, and where its buckets end.

    Two parameters of 100 and 30 elements on two ranks: the second lies first, [64, 0], and the buffer ends at 256; with
    buckets of 30 elements at [128, 0], and buckets end at 128 and 256.

    Args:
        sizes: elements of each parameter.
        ranks: number that shares the optimizer state; None is without sharing, and then nothing is padded.
        bucket: elements with which a bucket ends; None is one bucket.
    """
    parameter_multiple, bucket_multiple = (1, 1) if ranks is None else (_PARAMETER_MULTIPLE, _BUCKET_MULTIPLE)
    bucket_multiple = math.lcm(ranks or 1, bucket_multiple)
    starts: list[int] = []
    ends: list[int] = []
    first = end = 0
    for size in reversed(sizes):
        starts.append(_rounded_up(end, parameter_multiple))
        end = starts[-1] + size
        if bucket is not None and end - first >= bucket:
            first = end = _rounded_up(end, bucket_multiple)
            ends.append(end)
    if end > first:
        ends.append(_rounded_up(end, bucket_multiple))
    return starts[::-1], ends


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
    (store_param_remainders), but an offloaded one keeps all four.
    """
    optim = settings.model.optim
    main = FP32_BYTES if activation_bytes(settings) < FP32_BYTES else 0
    return main // 2 if optim.use_precision_aware_optimizer and not optim.optimizer_cpu_offload else main


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

"""Bytes of weights, gradients and optimizer state on a rank, as Megatron allocates them.

Each part of a pipeline has one buffer with its parameters in reverse. With a distributed optimizer each parameter
starts at a multiple of 64 elements, the buffer ends at a multiple of 128 and of the ranks, and a rank keeps state for
its share. Source: megatron-core 0.15.3, distributed/param_and_grad_buffer.py and optimizer/distrib_optimizer.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_bt.config.model import Settings
from nemo_bt.planning.parameters import Parameter
from nemo_bt.training.fused_adam import bounds

FP32_BYTES = 4
INDEX_BYTES = 8
_DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
_PARAMETER_MULTIPLE = 64
_BUFFER_MULTIPLE = 128


@dataclass(frozen=True)
class StateBytes:
    """State of one rank, in bytes."""

    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class Buffer:
    """Parameters of one part of a pipeline that the same ranks share.

    Args:
        is_expert: the parameters are those of experts.
        is_shared: ranks share its optimizer state.
        ranks: number of ranks that share it.
        starts: first element of each parameter.
        sizes: elements of each parameter.
        end: elements of the whole, with padding.
    """

    is_expert: bool
    is_shared: bool
    ranks: int
    starts: list[int]
    sizes: list[int]
    end: int
    weight_bytes: int
    gradient_bytes: int


def buffers(settings: Settings, parts: Sequence[Sequence[Parameter]]) -> list[Buffer]:
    """List a rank's buffers: each part has one of what all ranks hold, and one of experts where there are some."""
    model = settings.model
    is_shared = model.optim.name == "distributed_fused_adam"
    made = []
    for is_expert in (False, True):
        ranks = settings.data_parallel_size * model.context_parallel_size
        ranks //= model.expert_model_parallel_size if is_expert else 1
        ranks //= model.optim.num_distributed_optimizer_instances
        for part in parts:
            sizes = [parameter.num_elements for parameter in part if parameter.is_expert == is_expert]
            if sizes:
                starts, end = buffer_places(sizes, ranks if is_shared else None)
                weights = end * activation_bytes(settings)
                gradients = end * gradient_bytes(settings)
                made.append(Buffer(is_expert, is_shared, ranks, starts, sizes, end, weights, gradients))
    return made


def state_bytes(settings: Settings, parts: Sequence[Sequence[Parameter]], data_rank: int = 0) -> StateBytes:
    """Count what a rank allocates before its first step, and with it.

    Args:
        parts: what `nemo_bt.planning.parameters.rank_parameters` gives.
        data_rank: number of the rank among data- and context-parallel ranks, which decides its share.
    """
    weights = gradients = optimizer = 0
    for buffer in buffers(settings, parts):
        weights += buffer.weight_bytes
        gradients += buffer.gradient_bytes
        kept = _kept(buffer, _own(settings, buffer, data_rank))
        optimizer += sum(kept) * _state_bytes_per_element(settings)
    return StateBytes(weights, gradients, optimizer)


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


def activation_bytes(settings: Settings) -> int:
    """Give the bytes of an element of weights and activations."""
    return FP32_BYTES if settings.trainer.precision == "32" else 2


def gradient_bytes(settings: Settings) -> int:
    """Give the bytes of an element of the gradient."""
    return FP32_BYTES if settings.model.optim.grad_reduce_in_fp32 else activation_bytes(settings)


def buffer_places(sizes: Sequence[int], ranks: int | None) -> tuple[list[int], int]:
    """Find where the parameters of a buffer start, in the order of the parameters, and where it ends.

    Two parameters of 100 and 30 elements on two ranks: the second lies first, [64, 0], and the buffer ends at 256.

    Args:
        sizes: elements of each parameter.
        ranks: number that shares the optimizer state; None is without sharing, and then nothing is padded.
    """
    starts = []
    end = 0
    for size in reversed(sizes):
        start = end if ranks is None else _rounded_up(end, _PARAMETER_MULTIPLE)
        starts.append(start)
        end = start + size
    return starts[::-1], end if ranks is None else _rounded_up(end, math.lcm(ranks, _BUFFER_MULTIPLE))


def _own(settings: Settings, buffer: Buffer, data_rank: int) -> int:
    """Give the rank's number among those that share a buffer."""
    return data_rank // (settings.model.expert_model_parallel_size if buffer.is_expert else 1) % buffer.ranks


def _kept(buffer: Buffer, rank: int) -> list[int]:
    """Count the elements of each parameter of which a rank keeps the state: all, or those in its share."""
    if not buffer.is_shared:
        return buffer.sizes
    each = buffer.end // buffer.ranks
    places = zip(buffer.starts, buffer.sizes, strict=True)
    return [max(0, min(each * (rank + 1), start + size) - max(each * rank, start)) for start, size in places]


def _state_bytes_per_element(settings: Settings) -> int:
    """Count two moments, and a main copy in fp32 of weights that are not.

    The precision-aware optimizer keeps only the two bytes of that copy that a weight in bf16 lacks
    (store_param_remainders).
    """
    optim = settings.model.optim
    main = FP32_BYTES if activation_bytes(settings) < FP32_BYTES else 0
    main = main // 2 if optim.use_precision_aware_optimizer else main
    return _DTYPE_BYTES[optim.exp_avg_dtype] + _DTYPE_BYTES[optim.exp_avg_sq_dtype] + main


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

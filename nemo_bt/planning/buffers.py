"""Megatron's buffers of weights and gradients on a rank.

Each part of a pipeline has one buffer with its parameters in reverse. That of the first part is cut into buckets, which
travel one by one, where gradients are reduced while others are computed. With a distributed optimizer each parameter
starts at a multiple of 64 elements, a bucket ends at a multiple of 128 and of the ranks, and a rank keeps state for its
share of each. Source: megatron-core 0.15.3, distributed/{distributed_data_parallel,param_and_grad_buffer}.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nemo_bt.config.model import Settings
from nemo_bt.config.parallelism import overlaps
from nemo_bt.planning.parameters import Parameter
from nemo_bt.pretrained.names import EMBEDDING

FP32_BYTES = 4
FP8_BYTES = 1
INDEX_BYTES = 8
_PARAMETER_MULTIPLE = 64
_BUCKET_MULTIPLE = 128
_BUCKET_ELEMENTS = 40_000_000
_BUCKET_ELEMENTS_PER_REPLICA = 1_000_000
"""A bucket ends with the parameter with which it has so many elements, or as many for each data-parallel rank."""


@dataclass(frozen=True)
class Buffer:
    """Parameters of one part of a pipeline that the same ranks share.

    Args:
        part: number of the part.
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

    part: int
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
    """List a rank's buffers of what is trained: each part has one of what all ranks hold, and one of its experts.

    Weights that are held in FP8 have buffers of their own.
    """
    model = settings.model
    is_shared = model.optim.name == "distributed_fused_adam"
    made = []
    for is_expert in (False, True):
        ranks = settings.data_parallel_size * model.context_parallel_size
        ranks //= model.expert_model_parallel_size if is_expert else 1
        ranks //= model.optim.num_distributed_optimizer_instances
        for (number, part), is_fp8 in itertools.product(enumerate(parts), (False, True)):
            own = [one for one in part if (one.is_expert, one.is_fp8, one.is_trained) == (is_expert, is_fp8, True)]
            sizes = [one.num_elements for one in own]
            if own:
                is_first = any(one.name == EMBEDDING for one in part)
                bucket = bucket_elements(settings) if is_first else None
                starts, ends = buffer_places(sizes, ranks if is_shared else None, bucket)
                decays = [len(one.shape) > 1 for one in own]
                values = FP8_BYTES if is_fp8 else activation_bytes(settings), gradient_bytes(settings)
                made.append(Buffer(number, is_expert, is_shared, ranks, starts, sizes, decays, ends, *values))
    return made


def together(found: Sequence[Buffer]) -> Iterator[tuple[Buffer, int, int]]:
    """Give what travels together, with its bytes as gradients and as weights: a bucket of the buffer that comes first.

    The last bucket of weights in FP8 takes all others of its part along.
    """
    for _, own in itertools.groupby(found, key=lambda buffer: (buffer.is_expert, buffer.part)):
        *others, last = own
        sizes = [(elements * last.gradient_bytes, elements * last.weight_bytes) for elements in last.buckets]
        for one in others:
            gradients, weights = sizes.pop()
            sizes.append((gradients + one.ends[-1] * one.gradient_bytes, weights + one.ends[-1] * one.weight_bytes))
        yield from ((last, *size) for size in sizes)


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


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

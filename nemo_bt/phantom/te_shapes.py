"""Shapes of Transformer Engine's tensors, and empty ones as its kernels give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nemo_bt.phantom.mode import DEVICE
from nemo_bt.phantom.te_types import TORCH_DTYPES, DType


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Give the shape of a tensor, or of one in FP8 that may only have its transpose."""
    if getattr(tensor, "_data", tensor) is None:
        first, *rest = tensor._transpose.size()
        return (*rest, first)
    return tuple(tensor.size())


def as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Give rows and columns: all dimensions but the last are rows."""
    return int(torch.Size(shape[:-1]).numel()), shape[-1]


def empty(shape: Sequence[int], dtype: Any) -> Tensor:
    """Make a tensor on the device; `dtype` is torch's or Transformer Engine's."""
    return torch.empty(tuple(shape), dtype=TORCH_DTYPES[dtype] if isinstance(dtype, DType) else dtype, device=DEVICE)


def empty_output(shape: Sequence[int], dtype: Any, quantizer: Any = None) -> Any:
    """Make what a kernel writes: in FP8 where there is a quantizer."""
    if quantizer is None:
        return empty(shape, dtype)
    wide = TORCH_DTYPES[dtype] if isinstance(dtype, DType) else dtype
    return quantizer.make_empty(tuple(shape), dtype=wide, device=DEVICE)


def expect_on_device(**tensors: Any) -> None:
    """Check that a kernel's inputs lie on the device.

    Raises:
        ValueError: one does not, with its name.
    """
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.device.type != "cuda":
            raise ValueError(f"{name}: expected a tensor of the GPU, got one of {tensor.device}")

"""Quantizers and tensors in FP8 as Transformer Engine has them, as far as the kernels with numbers look at them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from nemo_bt.phantom.numbers import quantize
from nemo_bt.phantom.te_types import DType


def as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tensorwise(dtype: DType = DType.kFloat8E4M3, power_of_2: bool = False) -> Any:
    """A quantizer of current scaling, as far as a kernel looks at it."""
    state = {"amax": torch.zeros(1), "scale": torch.zeros(1)}
    return SimpleNamespace(dtype=dtype, force_pow_2_scales=power_of_2, amax_epsilon=0.0, **state)


def blockwise(dim: int, dtype: DType = DType.kFloat8E4M3) -> Any:
    options = {"amax_epsilon": 0.0, "force_pow_2_scales": True, "all_gather_usage": False}
    return SimpleNamespace(dtype=dtype, block_scaling_dim=dim, **options)


def written(x: Tensor, quantizer: Any) -> Any:
    """What a quantizer writes of a matrix, by rows and by columns."""
    data, transpose = (torch.zeros(shape, dtype=torch.uint8) for shape in (x.shape, x.T.shape))
    out = SimpleNamespace(_fp8_dtype=quantizer.dtype)
    if hasattr(quantizer, "block_scaling_dim"):
        out._is_2D_scaled = quantizer.block_scaling_dim == 2
        out._rowwise_data, out._columnwise_data = data, transpose
        out._rowwise_scale_inv, out._columnwise_scale_inv = (
            torch.full(places_of_scales(*shape, out._is_2D_scaled), torch.nan) for shape in (x.shape, x.T.shape)
        )
    else:
        out._data, out._transpose, out._transpose_invalid, out._scale_inv = data, transpose, False, torch.zeros(1)
    quantize.write(x, quantizer, out, as_it_is)
    return out


def places_of_scales(rows: int, columns: int, is_square: bool) -> tuple[int, int]:
    """As Transformer Engine's quantizers make room for them: the second number a multiple of 4."""
    high, wide = (-(-rows // 128), -(-columns // 128)) if is_square else (-(-columns // 128), rows)
    return high, -(-wide // 4) * 4

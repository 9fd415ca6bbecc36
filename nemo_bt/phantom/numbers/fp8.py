"""FP8 as Transformer Engine's kernels write and read it: scales, rounding, and the layouts of its tensors.

A tensor in FP8 is bytes and the inverse of the scale by which its values were multiplied before they were rounded: one
for the whole tensor, for 1 x 128 values along the sum of a product, or for 128 x 128 of them.

Source: Transformer Engine, common/recipe/recipe_common.cuh (scales) and common/transpose/quantize_transpose_*.cu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_bt.phantom.te_types import TORCH_DTYPES

Read = Callable[[Any], Tensor]
"""Gives the values of a tensor of the device."""
_BLOCK = 128


def scale_of(amax: Tensor, dtype: torch.dtype, epsilon: float = 0.0, is_power_of_2: bool = False) -> Tensor:
    """Give the scale, fp32, that takes values of at most `amax` to the largest number of `dtype`, or to a half of it.

    1 where amax is zero or not finite; the largest number of fp32 where it would be infinite.
    """
    amax = amax.clamp(min=epsilon)
    scale = (torch.finfo(dtype).max / amax).clamp(max=torch.finfo(torch.float32).max)
    if is_power_of_2:
        scale = torch.ldexp(torch.ones_like(scale), torch.frexp(scale).exponent - 1)
    return torch.where((amax > 0) & amax.isfinite(), scale, 1.0)


def rounded(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Give the bytes of x * scale in `dtype`, to the nearest even, and at most its largest number."""
    most = torch.finfo(dtype).max
    return (x.float() * scale).clamp(-most, most).to(dtype).view(torch.uint8)


def blocks_of(x_MK: Tensor, is_square: bool) -> Tensor:
    """Give views of blocks, [m, M / m, k, 128] with m = M or M / 128, of a matrix that is filled up with zeros."""
    rows, columns = x_MK.shape
    height = _BLOCK if is_square else 1
    filled = F.pad(x_MK, (0, -columns % _BLOCK, 0, -rows % height))
    return filled.view(-(-rows // height), height, -1, _BLOCK)


def scaled_by_blocks(x_MK: Tensor, quantizer: Any) -> tuple[Tensor, Tensor]:
    """Quantise a matrix by blocks of its rows.

    Returns:
        Bytes [M, K], and inverse scales in fp32 by blocks, [M or M / 128, K / 128].
    """
    rows, columns = x_MK.shape
    dtype = TORCH_DTYPES[quantizer.dtype]
    blocks = blocks_of(x_MK.float(), quantizer.block_scaling_dim == 2)
    amax = blocks.abs().amax((1, 3))
    scale = scale_of(amax, dtype, quantizer.amax_epsilon, quantizer.force_pow_2_scales)
    data = rounded(blocks, scale[:, None, :, None], dtype)
    return data.reshape(-1, blocks.shape[2] * _BLOCK)[:rows, :columns], 1.0 / scale


def values_by_blocks(data_MK: Tensor, scale_inv: Tensor, dtype: torch.dtype, is_square: bool) -> Tensor:
    """Read a matrix that `scaled_by_blocks` wrote; scales lie as `placed` leaves them."""
    rows, columns = data_MK.shape
    values = blocks_of(data_MK.view(dtype).float(), is_square)
    high, wide = values.shape[0], values.shape[2]
    scales = scale_inv[:high, :wide] if is_square else scale_inv[:wide, :high].T
    return (values * scales[:, None, :, None]).reshape(-1, wide * _BLOCK)[:rows, :columns]


def placed(scale_inv: Tensor, to: Tensor, is_square: bool) -> None:
    """Write inverse scales where cuBLAS reads them: those of 1 x 128 values transposed; what fills up is left."""
    scales = scale_inv if is_square else scale_inv.T
    to[: scales.shape[0], : scales.shape[1]].copy_(scales)


def matrix(tensor: Any, by_rows: bool, read: Read) -> Tensor:
    """Give the values of a factor of a product, [rows, columns] fp32, as the product reads them.

    Args:
        by_rows: whether the product sums along its rows. Otherwise Hopper reads the bytes that were quantised along its
            columns, which lie transposed.

    Raises:
        ValueError: those are not the bytes by rows, though both sides have the same scales: one side is stale.
    """
    if hasattr(tensor, "_rowwise_data"):
        data, scale_inv = (
            (tensor._rowwise_data, tensor._rowwise_scale_inv)
            if by_rows
            else (tensor._columnwise_data, tensor._columnwise_scale_inv)
        )
        flat = read(data).flatten(0, -2) if by_rows else read(data).flatten(1)
        if tensor._is_2D_scaled:
            _expect_alike(tensor._rowwise_data, tensor._columnwise_data, read)
        values = values_by_blocks(flat, read(scale_inv), TORCH_DTYPES[tensor._fp8_dtype], tensor._is_2D_scaled)
    elif hasattr(tensor, "_transpose"):
        flat = read(tensor._data).flatten(0, -2) if by_rows else read(tensor._transpose).flatten(1)
        _expect_alike(tensor._data, tensor._transpose if not tensor._transpose_invalid else None, read)
        values = flat.view(TORCH_DTYPES[tensor._fp8_dtype]).float() * read(tensor._scale_inv)
    else:
        values, by_rows = read(tensor).flatten(0, -2).float(), True
    return values if by_rows else values.T


def _expect_alike(data: Any, transpose: Any, read: Read) -> None:
    """Check that both sides of a matrix have the same bytes, where both are there."""
    if data is None or transpose is None:
        return
    if not torch.equal(read(data).flatten(0, -2), read(transpose).flatten(1).T):
        raise ValueError(f"FP8: expected a transpose of the bytes of {tuple(data.shape)}, got others: one is stale")

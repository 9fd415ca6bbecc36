"""Quantisation of Transformer Engine: what a quantizer writes, and the scales of delayed scaling.

Source: Transformer Engine, common/recipe/delayed_scaling.cu, current_scaling.cu, fp8_block_scaling.cu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nemo_bt.phantom.numbers.fp8 import Read, blocks_of, matrix, placed, rounded, scale_of, scaled_by_blocks
from nemo_bt.phantom.te_types import TORCH_DTYPES


def functions(read: Read) -> dict[str, Callable[..., None]]:
    """Give the functions by name: each writes what its shape function gave, its first argument."""

    def quantize(out: Any, x: Any, quantizer: Any, given: Any = None, noop: Any = None) -> None:
        if noop is None or not read(noop).item():
            write(read(x), quantizer, out, read)

    def bgrad_quantize(out: Any, x: Any, quantizer: Any) -> None:
        read(out[0]).copy_(read(x).float().flatten(0, -2).sum(0))
        write(read(x), quantizer, out[1], read)

    def dequantize(out: Any, x: Any, dtype: Any) -> None:
        read(out).copy_(matrix(x, True, read).view(out.shape))

    def fp8_transpose(made: Any, x: Any, dtype: Any, *, out: Any = None) -> None:
        read(made).copy_(read(x).flatten(0, -2).T.reshape(made.shape))

    def compute_amax(out: None, x: Any, amax: Any) -> None:
        read(amax).copy_(read(x).abs().amax())

    def fp8_block_scaling_compute_partial_amax(
        out: None, x: Any, amax: Any, rows: int, columns: int, start: int, block: int
    ) -> None:
        blocks = blocks_of(_whole(read(x).float(), rows, columns, start), True)
        read(amax)[:, : blocks.shape[2]].copy_(blocks.abs().amax((1, 3)))  # its rows are filled up

    def fp8_block_scaling_partial_cast(
        out: None, x: Any, data: Any, scale: Any, rows: int, columns: int, start: int, block: int, dtype: Any
    ) -> None:
        blocks = blocks_of(_whole(read(x).float(), rows, columns, start), True)
        cast = rounded(blocks, read(scale)[:, None, : blocks.shape[2], None], TORCH_DTYPES[dtype])
        whole = cast.reshape(-1, blocks.shape[2] * blocks.shape[3])[:rows, :columns].flatten()
        read(data).copy_(whole[start : start + read(x).numel()])

    def fused_amax_and_scale_update_after_reduction(
        out: None, reduced: Any, histories: Any, scales: Any, algorithm: str, dtype: Any, margin: float
    ) -> None:
        parts = read(reduced).split([scale.numel() for scale in scales])
        for amax, history, scale in zip(parts, histories, scales, strict=True):
            _scale_anew(amax, read(history), read(scale), algorithm, TORCH_DTYPES[dtype], margin)

    made = (
        quantize, bgrad_quantize, dequantize, fp8_transpose, compute_amax, fp8_block_scaling_compute_partial_amax,
        fp8_block_scaling_partial_cast, fused_amax_and_scale_update_after_reduction,
    )  # fmt: skip
    return {one.__name__: one for one in made}


def write(x: Tensor, quantizer: Any, out: Any, read: Read) -> None:
    """Write a tensor in FP8 with the scales that its quantizer finds or has.

    Raises:
        NotImplementedError: it scales otherwise than tensorwise, delayed or blockwise.
    """
    x_MK = x.view(-1, x.shape[-1])
    if hasattr(quantizer, "block_scaling_dim"):
        _write_blocks(x_MK, quantizer, out, read)
        return
    if not hasattr(quantizer, "amax"):
        raise NotImplementedError(f"{type(quantizer).__name__}: the device with numbers has no values for it")
    dtype = TORCH_DTYPES[quantizer.dtype]
    scale = read(quantizer.scale)
    found = x.abs().amax().float()
    if hasattr(quantizer, "force_pow_2_scales"):
        read(quantizer.amax).copy_(found)
        scale.copy_(scale_of(found, dtype, quantizer.amax_epsilon, quantizer.force_pow_2_scales))
    elif quantizer.amax.numel():  # a part of a weight is cast without
        amax = read(quantizer.amax)
        amax.copy_(torch.maximum(amax, found))
    data = rounded(x_MK, scale, dtype)
    if out._data is not None:
        read(out._data).copy_(data.view(out._data.shape))
    if out._transpose is not None and not out._transpose_invalid:
        read(out._transpose).copy_(data.T.reshape(out._transpose.shape))
    read(out._scale_inv).copy_(1.0 / scale)


def _write_blocks(x_MK: Tensor, quantizer: Any, out: Any, read: Read) -> None:
    if quantizer.all_gather_usage:
        raise NotImplementedError("FP8 blockwise for tensors that ranks gather: it has no values here")
    is_square = quantizer.block_scaling_dim == 2
    for x, data, scale_inv in (
        (x_MK, out._rowwise_data, out._rowwise_scale_inv),
        (x_MK.T, out._columnwise_data, out._columnwise_scale_inv),
    ):
        if data is not None:
            found, scales = scaled_by_blocks(x, quantizer)
            read(data).copy_(found.reshape(data.shape))
            placed(scales, read(scale_inv), is_square)


def _whole(part: Tensor, rows: int, columns: int, start: int) -> Tensor:
    """Put a part of a matrix, whose values lie in a row from `start` on, among zeros."""
    flat = torch.zeros(rows * columns)
    flat[start : start + part.numel()] = part.flatten()
    return flat.view(rows, columns)


def _scale_anew(
    reduced: Tensor, history: Tensor, scale: Tensor, algorithm: str, dtype: torch.dtype, margin: float
) -> None:
    """Put the newest amax at the end of the history, [steps, tensors], and scale by its largest or by the newest."""
    newest = torch.where(reduced != 0, reduced, history[0])
    is_new = newest != 0
    rolled = torch.cat([history[1:], newest[None]])
    amax = {"max": torch.where(is_new, rolled.amax(0), 0.0), "most_recent": newest}[algorithm]
    rolled[0] = 0
    history.copy_(torch.where(is_new, rolled, history))
    scaled = scale_of(amax, dtype) * 2.0**-margin
    scale.copy_(torch.where((amax > 0) & amax.isfinite(), scaled, scale))

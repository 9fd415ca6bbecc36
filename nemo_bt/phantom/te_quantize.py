"""Quantisation of Transformer Engine: what a quantizer writes, and the bookkeeping of scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.mode import DEVICE
from nemo_bt.phantom.te_shapes import empty, expect_on_device, shape_of


def functions(ledger: Ledger) -> dict[str, Callable[..., Any]]:
    """Give the functions by name."""

    def quantize(x: Any, quantizer: Any, out: Any = None, noop: Any = None) -> Any:
        expect_on_device(x=x)
        return quantizer.make_empty(shape_of(x), dtype=x.dtype, device=DEVICE) if out is None else out

    def split_quantize(x: Any, splits: Any, quantizers: Any) -> Any:
        parts = zip(splits, quantizers, strict=True)
        return [one.make_empty((rows, x.shape[-1]), dtype=x.dtype, device=DEVICE) for rows, one in parts]

    def bgrad_quantize(x: Any, quantizer: Any) -> Any:
        return empty((x.shape[-1],), x.dtype), quantize(x, quantizer)

    def dequantize(x: Any, dtype: Any) -> Any:
        return empty(shape_of(x), dtype)

    def fp8_transpose(x: Any, dtype: Any, *, out: Any = None) -> Any:
        *rows, columns = shape_of(x)
        return empty((columns, *rows), torch.uint8) if out is None else out

    def swap_first_dims(x: Any, out: Any = None) -> Any:
        first, second, *rest = shape_of(x)
        return empty((second, first, *rest), x.dtype)

    def compute_amax(x: Any, amax: Any) -> None:
        expect_on_device(x=x, amax=amax)

    def fp8_block_scaling_compute_partial_amax(x: Any, amax: Any, *_: Any) -> None:
        expect_on_device(x=x, amax=amax)

    def fp8_block_scaling_partial_cast(x: Any, out: Any, scale: Any, *_: Any) -> None:
        expect_on_device(x=x, out=out, scale=scale)

    def fused_amax_and_scale_update_after_reduction(*_: Any) -> None:
        """Write scales in their place."""

    def fused_multi_row_padding(x: Any, out: Any, *_: Any) -> None:
        expect_on_device(x=x, out=out)

    made = (
        quantize,
        split_quantize,
        bgrad_quantize,
        dequantize,
        fp8_transpose,
        swap_first_dims,
        compute_amax,
        fp8_block_scaling_compute_partial_amax,
        fp8_block_scaling_partial_cast,
        fused_amax_and_scale_update_after_reduction,
        fused_multi_row_padding,
    )
    found = {one.__name__: one for one in made}
    return found | {"fused_multi_row_unpadding": fused_multi_row_padding}

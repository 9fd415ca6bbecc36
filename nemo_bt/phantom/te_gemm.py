"""Matrix products of Transformer Engine: shapes, and what cuBLAS asks of them.

Transformer Engine counts columns first, as cuBLAS does: D [m, n] = B [m, k] x A [n, k] transposed, for `transa` and not
`transb`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.mode import is_quantised
from nemo_bt.phantom.te_shapes import as_matrix, empty, empty_output, expect_on_device, shape_of

_FP8_MULTIPLE = 16
"""Multiple of every side of a matrix in FP8. Source: cuBLAS, "FP8 data types usage requirements"."""


def functions(ledger: Ledger) -> dict[str, Callable[..., Any]]:
    """Give the functions by name."""

    def generic_gemm(
        left: Any, transa: bool, right: Any, transb: bool, out: Any, quantizer: Any, out_dtype: Any, bias: Any,
        bias_dtype: Any, gelu: bool, gelu_in: Any, grad: bool, workspace: Any, workspace_size: int, accumulate: bool,
        split: bool, comm_overlap: Any = None, comm_type: Any = None, extra_output: Any = None, **_: Any,
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        rows, columns = _count(ledger, left, transa, right, transb)
        shape = (rows, columns) if transb else (*shape_of(right)[:-1], columns)
        if out is None:
            wide = out_dtype if out_dtype is not None else left.dtype
            out = empty_output(shape, wide, quantizer)
        elif out.numel() != rows * columns:
            raise ValueError(f"expected an output of {shape}, got {tuple(out.shape)}")
        bias_grad = empty((rows if transb else columns,), bias.dtype) if grad and bias is not None else None
        return out, bias_grad, None, extra_output

    def te_general_grouped_gemm(
        lefts: Any,
        transa: bool,
        rights: Any,
        transb: bool,
        outs: Any,
        out_dtype: Any,
        m_splits: Any,
        bias: Any,
        *_: Any,
    ) -> Any:
        for left, right in zip(lefts, rights, strict=True):
            if shape_of(right)[0]:
                _count(ledger, left, transa, right, transb)
        return bias

    return {one.__name__: one for one in (generic_gemm, te_general_grouped_gemm)}


def _count(ledger: Ledger, left: Any, transa: bool, right: Any, transb: bool) -> tuple[int, int]:
    """Check the factors, count the product, and give its rows and columns.

    Raises:
        ValueError: cuBLAS or Transformer Engine would refuse them.
    """
    left_rows, left_columns = as_matrix(shape_of(left))
    right_rows, right_columns = as_matrix(shape_of(right))
    columns, inner = (left_rows, left_columns) if transa else (left_columns, left_rows)
    rows, other_inner = (right_columns, right_rows) if transb else (right_rows, right_columns)
    if inner != other_inner:
        raise ValueError(f"expected factors of one inner dimension, got {inner} and {other_inner}")
    if is_quantised(left) != is_quantised(right):
        raise ValueError(f"expected factors of one kind, got {type(left).__name__} and {type(right).__name__}")
    if is_quantised(left):
        sides = (rows, inner, columns)
        if any(side % _FP8_MULTIPLE for side in sides):
            raise ValueError(f"FP8: expected sides that are multiples of {_FP8_MULTIPLE}, got {sides}")
        _expect_data(left, by_rows=transa, name="first factor")
        _expect_data(right, by_rows=not transb, name="second factor")
        dtype = type(left).__name__.removesuffix("Storage").removesuffix("Base")
    else:
        expect_on_device(first_factor=left, second_factor=right)
        if left.dtype != right.dtype:
            raise ValueError(f"expected factors of one dtype, got {left.dtype} and {right.dtype}")
        dtype = str(left.dtype).removeprefix("torch.")
    ledger.multiplied(rows, inner, columns, dtype)
    return rows, columns


_DATA = {True: ("_data", "_rowwise_data"), False: ("_transpose", "_columnwise_data")}


def _expect_data(tensor: Any, by_rows: bool, name: str) -> None:
    """Check that a tensor in FP8 has been quantised along the side by which Hopper reads it."""
    found = [getattr(tensor, attribute) for attribute in _DATA[by_rows] if hasattr(tensor, attribute)]
    if found and not any(isinstance(one, torch.Tensor) for one in found):
        raise ValueError(f"FP8: the {name} is not quantised by {'rows' if by_rows else 'columns'}")

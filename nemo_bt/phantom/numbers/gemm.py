"""Matrix products of Transformer Engine: summed in fp32, and rounded once to what is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemo_bt.phantom.numbers.fp8 import Read, matrix


def functions(read: Read) -> dict[str, Callable[..., None]]:
    """Give the functions by name: each writes what its shape function gave, its first argument."""

    def generic_gemm(
        made: Any, left: Any, transa: bool, right: Any, transb: bool, out: Any, quantizer: Any, out_dtype: Any,
        bias: Any, bias_dtype: Any, gelu: bool, gelu_in: Any, grad: bool, workspace: Any, workspace_size: int,
        accumulate: bool, split: bool, *, alpha: float = 1.0, beta: float = 0.0, **_: Any,
    ) -> None:  # fmt: skip
        if gelu or quantizer is not None:
            raise NotImplementedError("a product with GELU or in FP8: it has no values here")
        written, bias_grad, *_ = made
        left_values, right_values = matrix(left, transa, read), matrix(right, not transb, read)
        product = (right_values.T if transb else right_values) @ (left_values.T if transa else left_values) * alpha
        if bias is not None and not grad:
            product += read(bias).float()
        values = read(written).view(product.shape)
        values.copy_(product + beta * values.float() if accumulate else product)
        if bias_grad is not None:
            read(bias_grad).copy_(right_values.sum(0))

    return {"generic_gemm": generic_gemm}

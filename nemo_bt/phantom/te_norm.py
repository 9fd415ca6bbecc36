"""Norms, activation functions and rotation of Transformer Engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.te_shapes import as_matrix, empty, empty_output, expect_on_device, shape_of

_PLAIN = ("gelu", "relu", "qgelu", "srelu", "silu")
_GATED = ("geglu", "reglu", "qgeglu", "sreglu", "swiglu", "clamped_swiglu")


def functions(ledger: Ledger) -> dict[str, Callable[..., Any]]:
    """Give the functions by name."""
    return {**_norms(), **_activations(), **_rotation()}


def _norms() -> dict[str, Callable[..., Any]]:
    def rmsnorm_fwd(x: Any, weight: Any, eps: float, out: Any, quantizer: Any, dtype: Any, *_: Any) -> Any:
        return _normed(x, weight, quantizer, dtype), None, _statistics(x)

    def rmsnorm_bwd(grad: Any, x: Any, rsigma: Any, weight: Any, *_: Any) -> Any:
        _expect_alike(grad, x)
        return torch.empty_like(x), torch.empty_like(weight)

    def layernorm_fwd(x: Any, weight: Any, bias: Any, eps: float, out: Any, quantizer: Any, dtype: Any, *_: Any) -> Any:
        return _normed(x, weight, quantizer, dtype), _statistics(x), _statistics(x)

    def layernorm_bwd(grad: Any, x: Any, mu: Any, rsigma: Any, weight: Any, *_: Any) -> Any:
        _expect_alike(grad, x)
        return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)

    return {one.__name__: one for one in (rmsnorm_fwd, rmsnorm_bwd, layernorm_fwd, layernorm_bwd)}


def _normed(x: Any, weight: Any, quantizer: Any, dtype: Any) -> Any:
    expect_on_device(x=x, weight=weight)
    if x.shape[-1] != weight.shape[-1]:
        raise ValueError(f"expected a weight of {x.shape[-1]}, got {weight.shape[-1]}")
    return empty_output(shape_of(x), dtype, quantizer)


def _statistics(x: Any) -> Any:
    return empty((as_matrix(shape_of(x))[0],), torch.float32)


def _expect_alike(grad: Any, x: Any) -> None:
    expect_on_device(grad=grad, x=x)
    if grad.shape != x.shape or grad.dtype != x.dtype:
        raise ValueError(f"expected a gradient like {x.dtype} {tuple(x.shape)}, got {grad.dtype} {tuple(grad.shape)}")


def _activations() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name in (*_PLAIN, *_GATED):
        found[name] = _forward(is_gated=name in _GATED)
        found["clamped_dswiglu" if name == "clamped_swiglu" else f"d{name}"] = _backward
    return found


def _forward(is_gated: bool) -> Callable[..., Any]:
    def forward(x: Any, quantizer: Any = None, *_: Any, **__: Any) -> Any:
        *rows, columns = shape_of(x)
        return empty_output((*rows, columns // 2 if is_gated else columns), x.dtype, quantizer)

    return forward


def _backward(grad: Any, x: Any, quantizer: Any = None, *_: Any, **__: Any) -> Any:
    return empty_output(shape_of(x), x.dtype, quantizer)


def _rotation() -> dict[str, Callable[..., Any]]:
    def fused_rope_forward(x: Any, angles: Any, *_: Any) -> Any:
        expect_on_device(x=x, angles=angles)
        if angles.dtype != torch.float32 or angles.shape[0] < x.shape[0]:
            raise ValueError(f"expected {x.shape[0]} angles in float32, got {angles.shape[0]} in {angles.dtype}")
        return empty(shape_of(x), x.dtype)

    def fused_rope_backward(grad: Any, *_: Any) -> Any:
        return empty(shape_of(grad), grad.dtype)

    return {one.__name__: one for one in (fused_rope_forward, fused_rope_backward)}

"""Norms, activation functions and rotation of Transformer Engine: computed in fp32, and rounded once.

With delayed scaling a norm rounds its fp32 to FP8 at once, with the other recipes to bf16 before. Source: Transformer
Engine, common/normalization/*_kernels.cuh and pytorch/csrc/extensions/normalization.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_bt.phantom.numbers.fp8 import Read
from nemo_bt.phantom.numbers.quantize import write
from nemo_bt.phantom.te_types import TORCH_DTYPES


def functions(read: Read) -> dict[str, Callable[..., None]]:
    """Give the functions by name: each writes what its shape function gave, its first argument."""
    return {**_norms(read), **_activations(read), **_rotation(read)}


def _norms(read: Read) -> dict[str, Callable[..., None]]:
    def rmsnorm_fwd(
        made: Any, x: Any, weight: Any, eps: float, out: Any, quantizer: Any, dtype: Any, margin: int, centered: bool
    ) -> None:
        values = read(x).float().flatten(0, -2)
        rsigma = (values.square().mean(-1) + eps).rsqrt()
        read(made[2]).copy_(rsigma)
        _give(made[0], values * rsigma[:, None] * _factor(read(weight), centered), dtype, quantizer, read)

    def layernorm_fwd(
        made: Any, x: Any, weight: Any, bias: Any, eps: float, out: Any, quantizer: Any, dtype: Any, margin: int,
        centered: bool,
    ) -> None:  # fmt: skip
        values = read(x).float().flatten(0, -2)
        mu = values.mean(-1)
        rsigma = (values.var(-1, correction=0) + eps).rsqrt()
        read(made[1]).copy_(mu)
        read(made[2]).copy_(rsigma)
        normed = (values - mu[:, None]) * rsigma[:, None] * _factor(read(weight), centered) + read(bias).float()
        _give(made[0], normed, dtype, quantizer, read)

    def rmsnorm_bwd(made: Any, grad: Any, x: Any, rsigma: Any, weight: Any, margin: int, centered: bool) -> None:
        found = _gradients(read(grad), read(x).float(), read(rsigma), _factor(read(weight), centered))
        for tensor, values in zip(made, found[:2], strict=True):
            read(tensor).copy_(values.view(tensor.shape))

    def layernorm_bwd(
        made: Any, grad: Any, x: Any, mu: Any, rsigma: Any, weight: Any, margin: int, centered: bool
    ) -> None:
        shifted = read(x).float().flatten(0, -2) - read(mu)[:, None]
        grad_x, *others = _gradients(read(grad), shifted, read(rsigma), _factor(read(weight), centered))
        for tensor, values in zip(made, (grad_x - grad_x.mean(-1, keepdim=True), *others), strict=True):
            read(tensor).copy_(values.view(tensor.shape))

    return {one.__name__: one for one in (rmsnorm_fwd, layernorm_fwd, rmsnorm_bwd, layernorm_bwd)}


def _factor(weight: Tensor, centered: bool) -> Tensor:
    return weight.float() + 1.0 if centered else weight.float()


def _give(out: Any, values: Tensor, dtype: Any, quantizer: Any, read: Read) -> None:
    """Write what a norm or an activation computes, in FP8 where there is a quantizer."""
    wide = TORCH_DTYPES[dtype]
    if quantizer is None:
        read(out).copy_(values.view(out.shape))
    else:
        is_delayed = not hasattr(quantizer, "force_pow_2_scales")
        write(values if is_delayed else values.to(wide), quantizer, out, read)


def _gradients(grad: Tensor, x: Tensor, rsigma: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give the gradients of x, weight and bias of y = x * rsigma * factor + bias, rsigma being x's own."""
    grads = grad.float().flatten(0, -2)
    normed = x.flatten(0, -2) * rsigma[:, None]
    inner = grads * factor
    grad_x = rsigma[:, None] * (inner - normed * (inner * normed).mean(-1, keepdim=True))
    return grad_x, (grads * normed).sum(0), grads.sum(0)


def _activations(read: Read) -> dict[str, Callable[..., None]]:
    def swiglu(made: Any, x: Any, quantizer: Any = None) -> None:
        gate, up = read(x).float().flatten(0, -2).chunk(2, -1)
        _give_like(made, x, F.silu(gate) * up, quantizer)

    def dswiglu(made: Any, grad: Any, x: Any, quantizer: Any = None) -> None:
        gate, up = read(x).float().flatten(0, -2).chunk(2, -1)
        grads = read(grad).float().flatten(0, -2)
        slope = gate.sigmoid() * (1 + gate * (1 - gate.sigmoid()))
        _give_like(made, x, torch.cat([grads * up * slope, grads * F.silu(gate)], -1), quantizer)

    def _give_like(made: Any, x: Any, values: Tensor, quantizer: Any) -> None:
        if quantizer is None:
            read(made).copy_(values.view(made.shape))
        else:
            write(values.to(x.dtype), quantizer, made, read)

    return {one.__name__: one for one in (swiglu, dswiglu)}


def _rotation(read: Read) -> dict[str, Callable[..., None]]:
    def fused_rope_forward(made: Any, x: Any, angles: Any, start: Any, layout: Any, interleaved: bool, *_: Any) -> None:
        _rotate(made, x, angles, interleaved, 1.0)

    def fused_rope_backward(made: Any, grad: Any, angles: Any, layout: Any, interleaved: bool, *_: Any) -> None:
        _rotate(made, grad, angles, interleaved, -1.0)

    def _rotate(made: Any, x: Any, angles: Any, interleaved: bool, sign: float) -> None:
        """Turn the first dimensions of heads, [T, 1, N, D], by angles [T, 1, 1, d], its halves alike."""
        if interleaved:
            raise NotImplementedError("rotation of neighbouring dimensions: it has no values here")
        values, turns = read(x).float(), read(angles)[: x.shape[0]]
        turned, rest = values.split([turns.shape[-1], values.shape[-1] - turns.shape[-1]], -1)
        first, second = turned.chunk(2, -1)
        out = turned * turns.cos() + torch.cat([-second, first], -1) * turns.sin() * sign
        read(made).copy_(torch.cat([out, rest], -1))

    return {one.__name__: one for one in (fused_rope_forward, fused_rope_backward)}

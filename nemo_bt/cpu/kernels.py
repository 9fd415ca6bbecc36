"""Norm, SwiGLU and rotation for CPUs, each with the fewest passes over memory that eager torch allows.

Autograd would write and read every intermediate, and keep it for the backward pass. These functions compute in blocks
of tokens that stay in a core's cache, and keep the input alone; a rotation keeps not even that.

Shape suffixes: T = tokens, H = size of the normalised dimension, F = ffn size of this rank, N = heads, D = head size,
h = half of its rotated part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK_ELEMENTS = 128 * 1024
"""Elements of one operand of a block: 0.5 MB in fp32."""


def rms_norm(hidden: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """Compute RMSNorm, x / sqrt(mean(x^2) + eps) * weight, over the last dimension of [..., H]."""
    out: Tensor = _RmsNorm.apply(hidden, weight_H, eps)  # type: ignore[no-untyped-call]
    return out


def swiglu(gate_and_up: Tensor) -> Tensor:
    """Compute silu(gate) * up of [..., 2 F], gate first: [..., F]. Source: Shazeer 2020 (arXiv 2002.05202), eq. 5."""
    out: Tensor = _SwiGlu.apply(gate_and_up)  # type: ignore[no-untyped-call]
    return out


def rotate(x_TND: Tensor, cos_T1h: Tensor, sin_T1h: Tensor) -> Tensor:
    """Turn each pair (x[i], x[h + i]) of a head by its token's angle: [T, N, D]. What lies behind 2 h stays as it is.

    Cosine and sine have the dtype of x.

    Source: Su et al. 2021 (arXiv 2104.09864), eq. 34, with the halves of a head in the place of neighbours.
    """
    out: Tensor = _Rotation.apply(x_TND, cos_T1h, sin_T1h)  # type: ignore[no-untyped-call]
    return out


def _blocks(num_rows: int, row_elements: int) -> Iterator[slice]:
    rows = max(1, _BLOCK_ELEMENTS // max(row_elements, 1))
    for start in range(0, num_rows, rows):
        yield slice(start, min(start + rows, num_rows))


class _RmsNorm(torch.autograd.Function):
    """RMSNorm that computes in fp32 at least, and rounds once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        x_TH = hidden.reshape(-1, hidden.shape[-1])
        out_TH = x_TH.new_empty(x_TH.shape)
        inverse_T1 = x_TH.new_empty(len(x_TH), 1, dtype=torch.promote_types(x_TH.dtype, torch.float32))
        for rows in _blocks(*x_TH.shape):
            norm_T1 = torch.linalg.vector_norm(x_TH[rows], dim=-1, keepdim=True, dtype=inverse_T1.dtype)
            torch.rsqrt(norm_T1.square_().div_(x_TH.shape[1]).add_(eps), out=inverse_T1[rows])
            torch.mul(x_TH[rows] * inverse_T1[rows], weight_H, out=out_TH[rows])
        ctx.save_for_backward(x_TH, weight_H, inverse_T1)
        return out_TH.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Compute, with n = x / rms, dx = (g w - n mean(g w n)) / rms and dw = the sum over tokens of g n."""
        x_TH, weight_H, inverse_T1 = ctx.saved_tensors
        grad_TH = grads[0].reshape(x_TH.shape)
        wide_weight_H = weight_H.to(inverse_T1.dtype)
        grad_x_TH = x_TH.new_empty(x_TH.shape)
        grad_weight_H = torch.zeros_like(wide_weight_H)
        for rows in _blocks(*x_TH.shape):
            normed_TH = x_TH[rows] * inverse_T1[rows]
            product_TH = grad_TH[rows] * normed_TH
            grad_weight_H += product_TH.sum(0)
            mean_T1 = (product_TH @ wide_weight_H).div_(x_TH.shape[1]).unsqueeze_(1)
            torch.mul(grad_TH[rows], wide_weight_H, out=product_TH).sub_(normed_TH.mul_(mean_T1))
            torch.mul(product_TH, inverse_T1[rows], out=grad_x_TH[rows])
        return grad_x_TH.view(grads[0].shape), grad_weight_H.to(weight_H.dtype), None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_up)
        gate_TF, up_TF = gate_and_up.reshape(-1, gate_and_up.shape[-1]).chunk(2, dim=-1)
        out_TF = gate_TF.new_empty(gate_TF.shape)
        for rows in _blocks(*gate_TF.shape):
            torch.mul(F.silu(gate_TF[rows]), up_TF[rows], out=out_TF[rows])
        return out_TF.view(*gate_and_up.shape[:-1], gate_TF.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gate_and_up,) = ctx.saved_tensors
        grad_in = torch.empty_like(gate_and_up, memory_format=torch.contiguous_format)
        gate_TF, up_TF = gate_and_up.reshape(-1, gate_and_up.shape[-1]).chunk(2, dim=-1)
        grad_gate_TF, grad_up_TF = grad_in.view(-1, grad_in.shape[-1]).chunk(2, dim=-1)
        grad_TF = grads[0].reshape(gate_TF.shape)
        for rows in _blocks(*gate_TF.shape):
            torch.mul(F.silu(gate_TF[rows]), grad_TF[rows], out=grad_up_TF[rows])
            grad_silu_TF = grad_TF[rows] * up_TF[rows]
            torch.ops.aten.silu_backward.grad_input(grad_silu_TF, gate_TF[rows], grad_input=grad_gate_TF[rows])
        return grad_in


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TND: Tensor, cos_T1h: Tensor, sin_T1h: Tensor) -> Tensor:
        ctx.save_for_backward(cos_T1h, sin_T1h)
        return _rotated(x_TND, cos_T1h, sin_T1h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Turn the gradient back."""
        cos_T1h, sin_T1h = ctx.saved_tensors
        return _rotated(grads[0], cos_T1h, -sin_T1h), None, None


def _rotated(x_TND: Tensor, cos_T1h: Tensor, sin_T1h: Tensor) -> Tensor:
    half = cos_T1h.shape[-1]
    first, second, behind = slice(0, half), slice(half, 2 * half), slice(2 * half, None)
    out_TND = torch.empty_like(x_TND, memory_format=torch.contiguous_format)
    for rows in _blocks(len(x_TND), x_TND[0].numel() if len(x_TND) else 0):
        x, out, cos, sin = x_TND[rows], out_TND[rows], cos_T1h[rows], sin_T1h[rows]
        torch.mul(x[..., first], cos, out=out[..., first]).addcmul_(x[..., second], sin, value=-1)
        torch.mul(x[..., second], cos, out=out[..., second]).addcmul_(x[..., first], sin)
        out[..., behind] = x[..., behind]
    return out_TND

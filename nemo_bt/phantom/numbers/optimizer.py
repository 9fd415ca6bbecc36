"""Kernels of Transformer Engine that go over many tensors: Adam in fp32, norms, scaling and scales of FP8.

Source: Transformer Engine, common/multi_tensor/adam.cu, l2norm.cu, scale.cu and compute_scale.cu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nemo_bt.phantom.numbers.fp8 import Read, scale_of


def functions(read: Read) -> dict[str, Callable[..., None]]:
    """Give the functions by name: the first argument is what their shape functions gave."""

    def multi_tensor_adam(
        out: None, chunk: int, noop: Any, lists: Any, lr: float, beta1: float, beta2: float, eps: float, step: int,
        is_decoupled: int, corrects_bias: int, decay: float,
    ) -> None:  # fmt: skip
        corrections = [1 - beta**step if corrects_bias else 1.0 for beta in (beta1, beta2)]
        for grad, parameter, *state in zip(*lists, strict=True):
            moment, square, *main = (read(one) for one in state)
            weight = main[0] if main else read(parameter)
            wide, grads = weight.float(), read(grad).float()
            if not is_decoupled:
                grads = grads + decay * wide
            moment.copy_(beta1 * moment + (1 - beta1) * grads)
            square.copy_(beta2 * square + (1 - beta2) * grads * grads)
            update = moment / corrections[0] / ((square / corrections[1]).sqrt() + eps)
            if is_decoupled:
                update = update + decay * wide
            weight.copy_(wide - lr * update)
            if main:
                read(parameter).copy_(weight)

    def multi_tensor_l2norm(out: Any, chunk: int, noop: Any, lists: Any, per_tensor: bool = False) -> None:
        norms = torch.stack([read(one).float().norm() for one in lists[0]])
        read(out[0]).copy_(norms.norm())
        if per_tensor:
            read(out[1]).copy_(norms)

    def multi_tensor_scale(out: None, chunk: int, noop: Any, lists: Any, scale: float) -> None:
        for source, target in zip(*lists, strict=True):
            read(target).copy_(read(source).float() * scale)
            if not read(source).isfinite().all():
                read(noop).fill_(1)

    def multi_tensor_compute_scale_and_scale_inv(
        out: None, chunk: int, noop: Any, lists: Any, most: float, is_power_of_2: bool, epsilon: float
    ) -> None:
        dtypes = {torch.finfo(dtype).max: dtype for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)}
        for amax, scale, inverse in zip(*lists, strict=True):
            found = scale_of(read(amax), dtypes[most], epsilon, is_power_of_2)
            read(scale).copy_(found)
            read(inverse).copy_(1.0 / found)

    made = (multi_tensor_adam, multi_tensor_l2norm, multi_tensor_scale, multi_tensor_compute_scale_and_scale_inv)
    return {one.__name__: one for one in made}

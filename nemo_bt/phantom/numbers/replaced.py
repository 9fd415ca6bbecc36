"""Operations of torch that only a GPU has, or whose results beside the output are others on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nemo_bt.phantom.numbers.attention import flash_backward, flash_forward

_aten = torch.ops.aten


def _log_sigmoid_forward(x: Tensor) -> tuple[Tensor, None]:
    """Leave out what a CPU keeps for the backward pass; a GPU keeps nothing."""
    return _aten.log_sigmoid_forward.default(x)[0], None


def _log_sigmoid_backward(grad: Tensor, x: Tensor, kept: Tensor) -> Tensor:
    found: Tensor = _aten.log_sigmoid_backward.default(grad, x, _aten.log_sigmoid_forward.default(x)[1])
    return found


def _to_itself(outputs: list[Tensor], inputs: list[Tensor], *_: Any) -> None:
    """Send tensors of several dtypes together, as the only rank: gloo would make them one of one dtype."""
    for output, given in zip(outputs, inputs, strict=True):
        output.copy_(given)


REPLACED: dict[Any, Callable[..., Any]] = {
    _aten._flash_attention_forward.default: flash_forward,
    _aten._flash_attention_backward.default: flash_backward,
    _aten.log_sigmoid_forward.default: _log_sigmoid_forward,
    _aten.log_sigmoid_backward.default: _log_sigmoid_backward,
    torch.ops.c10d.allgather_into_tensor_coalesced_.default: _to_itself,
    torch.ops.c10d.reduce_scatter_tensor_coalesced_.default: _to_itself,
}
"""By operation: what gives the same of values, with None for what nothing reads."""

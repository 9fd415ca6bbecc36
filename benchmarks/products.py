"""The matrix products of a computation, to do them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_NAMES = {f"aten::{name}" for name in ("mm", "bmm", "addmm", "baddbmm", "matmul", "linear")}


class Products(TorchDispatchMode):
    """Notes every matrix product inside its with block: which it is, and the shapes and strides of its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note a product, and do whatever it is."""
        if func._schema.name in _NAMES:
            self.noted.append((func, [_described(arg) for arg in args]))
        return func(*args, **(kwargs or {}))

    def alone(self) -> Callable[[], None]:
        """Give a function that does these products and nothing else, on random operands: those of one shape share one.

        It does them in their order, without gradients.
        """
        operands: dict[Any, Tensor] = {}
        calls = [(func, [_operand(arg, operands) for arg in args]) for func, args in self.noted]

        @torch.inference_mode()
        def run() -> None:
            for func, args in calls:
                func(*args)

        return run


def _described(arg: Any) -> Any:
    return (tuple(arg.shape), arg.stride(), arg.dtype) if isinstance(arg, Tensor) else arg


def _operand(described: Any, operands: dict[Any, Tensor]) -> Any:
    if not isinstance(described, tuple):
        return described
    if described not in operands:
        shape, stride, dtype = described
        elements = max(1, 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)))
        operands[described] = torch.randn(elements, dtype=dtype).as_strided(shape, stride)
    return operands[described]

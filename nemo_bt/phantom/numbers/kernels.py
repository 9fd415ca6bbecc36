"""Transformer Engine's kernels: what each writes, into what its shape function has given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemo_bt.phantom.numbers import attention, gemm, norm, optimizer, quantize
from nemo_bt.phantom.numbers.memory import Memory
from nemo_bt.phantom.transformer_engine import Compute


def kernels(memory: Memory) -> Compute:
    """Give what computes any kernel.

    Raises:
        NotImplementedError: when it is called, there is no value for that one.
    """
    found: dict[str, Callable[..., None]] = {}
    for part in (gemm, norm, quantize, attention, optimizer):
        found |= part.functions(memory.of)

    def compute(name: str, out: Any, args: Any, kwargs: Any) -> None:
        if name not in found:
            raise NotImplementedError(f"{name}: the device with numbers does not compute it")
        found[name](out, *args, **kwargs)

    return compute

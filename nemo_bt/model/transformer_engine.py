"""Transformer Engine, where it is installed: which of its modules layers have, and what checkpoints leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

EXTRA_STATE = "_extra_state"
"""Part of the last part of the names (experts' have a number behind it) under which its modules keep what delayed
scaling has seen: it is pickled, and no weight."""


class Modules(NamedTuple):
    """What layers are built from.

    Args:
        backend: Megatron's `BackendSpecProvider`.
        row_parallel_norm: a row-parallel linear layer with the norm of its output.
    """

    backend: Any
    row_parallel_norm: type


def transformer_engine_modules() -> Modules:
    """Give Megatron's and NeMo's wrappers, and SwiGLU as a function: as a module Megatron would ask for its weights."""
    from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider
    from nemo.collections.llm.gpt.model.gemma2 import TERowParallelLinearLayerNorm
    from transformer_engine.pytorch.ops import SwiGLU

    operation = SwiGLU()

    def swiglu(x: Tensor) -> Tensor:
        found: Tensor = operation(x)
        return found

    class Provider(TESpecProvider):
        def activation_func(self) -> Callable[[Tensor], Tensor]:
            return swiglu

    return Modules(Provider(), TERowParallelLinearLayerNorm)


def without_extra_state(state: dict[str, Any]) -> dict[str, Any]:
    """Give weights alone, so that checkpoints of CPUs and of GPUs have the same entries."""
    return {name: value for name, value in state.items() if EXTRA_STATE not in name.rsplit(".", 1)[-1]}

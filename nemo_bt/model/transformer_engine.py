"""Transformer Engine, where it is installed: which of its modules layers have, and what checkpoints leave out."""

from __future__ import annotations

from typing import Any, NamedTuple

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
    """Give Megatron's and NeMo's wrappers."""
    from megatron.core.extensions.transformer_engine import TEActivationOp
    from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider
    from nemo.collections.llm.gpt.model.gemma2 import TERowParallelLinearLayerNorm

    class Activation:
        """An operation without weights: Megatron asks every module of an MLP what of it a checkpoint has."""

        def __new__(cls, config: Any) -> Any:
            operation: Any = TEActivationOp(config=config)
            operation.sharded_state_dict = lambda *_: {}
            return operation

    class Provider(TESpecProvider):
        def activation_func(self) -> type:
            """Give what is used where the configuration has `use_te_activation_func`."""
            return Activation

    return Modules(Provider(), TERowParallelLinearLayerNorm)


def without_extra_state(state: dict[str, Any]) -> dict[str, Any]:
    """Give weights alone, so that checkpoints of CPUs and of GPUs have the same entries."""
    return {name: value for name, value in state.items() if EXTRA_STATE not in name.rsplit(".", 1)[-1]}

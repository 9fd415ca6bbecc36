"""FP8 of the linear layers, under NeMo's names: what it asks of a run, and of how many rows streams are multiples.

Imports nothing heavy.
"""

from __future__ import annotations

from typing import Any

from nemo_bt.config.model import ModelSettings, Settings
from nemo_bt.errors import UserError

RECIPES = {"delayed": 16, "tensorwise": 16, "blockwise": 128, "mxfp8": 32}
"""Rows of which a matrix has to be a multiple on each rank, as cuBLAS and the kernels that scale take them."""
_COLUMNS = {"delayed": 16, "tensorwise": 16, "blockwise": 16, "mxfp8": 32}
"""Of which the other sides of matrices have to be multiples; blockwise gathers 128 columns at a time, where ranks share
a sequence."""
CAPABILITY = {"delayed": (8, 9), "tensorwise": (8, 9), "blockwise": (9, 0), "mxfp8": (10, 0)}
"""Least compute capability of the GPU. Source: transformer_engine/pytorch/fp8.py, check_*_support."""


def row_multiple(model: Any) -> int:
    """Of which the rows of a linear layer's input are a multiple: 1 without FP8.

    Args:
        model: settings, or a configuration of Megatron: both have `fp8` and `fp8_recipe`.
    """
    return RECIPES[str(model.fp8_recipe)] if model.fp8 else 1


def fp8_options(model: ModelSettings) -> dict[str, Any]:
    """What NeMo's plugin and Megatron's configuration are told, under names that they share; nothing without FP8."""
    if not model.fp8:
        return {}
    names = (
        "fp8",
        "fp8_recipe",
        "fp8_amax_history_len",
        "fp8_amax_compute_algo",
        "first_last_layers_bf16",
        "num_layers_at_start_in_bf16",
        "num_layers_at_end_in_bf16",
    )
    return {name: getattr(model, name) for name in names}


def check_precision(settings: Settings, sizes: dict[str, Any]) -> None:
    """Check what FP8 needs.

    Args:
        settings: of the run; layers are shared out already (`nemo_bt.config.parallelism.check_layout`).
        sizes: of the model, from `nemo_bt.pretrained.architecture.megatron_fields`.

    Raises:
        UserError: the first thing that it lacks.
    """
    model = settings.model
    if not model.fp8:
        return
    start = f"model.fp8={model.fp8}"
    if settings.trainer.precision != "bf16-mixed":
        raise UserError(f"{start} needs trainer.precision=bf16-mixed, got {settings.trainer.precision}.")
    if model.first_last_layers_bf16:
        _check_ends(model, sizes["num_layers"])
    width = "moe_ffn_hidden_size" if sizes.get("num_moe_experts") else "ffn_hidden_size"
    tp, head_size = model.tensor_model_parallel_size, sizes["kv_channels"]
    shared = {
        width: sizes[width],
        "num_attention_heads x kv_channels": sizes["num_attention_heads"] * head_size,
        "num_query_groups x kv_channels": sizes["num_query_groups"] * head_size,
    }
    multiple_of = _COLUMNS[model.fp8_recipe]
    of_hidden = RECIPES["blockwise"] if model.fp8_recipe == "blockwise" and model.sequence_parallel else multiple_of
    if sizes["hidden_size"] % of_hidden:
        raise UserError(
            f"{start} with model.fp8_recipe={model.fp8_recipe} needs a multiple of {of_hidden}: hidden_size="
            f"{sizes['hidden_size']} is none. Set another recipe, or model.fp8=null."
        )
    for name, size in shared.items():
        if size // tp % multiple_of:
            where = " on each tensor-parallel rank" if tp > 1 else ""
            raise UserError(
                f"{start} with model.fp8_recipe={model.fp8_recipe} needs multiples of {multiple_of}: "
                f"{name}={size // tp}{where} is none. Set another recipe, or model.fp8=null."
            )


def check_gpu(settings: Settings, capability: tuple[int, int]) -> None:
    """Check that a GPU has what is asked of it.

    Args:
        settings: of the run.
        capability: of the GPU, (9, 0) for H100 and H200.

    Raises:
        UserError: it has not.
    """
    model = settings.model
    least = CAPABILITY[model.fp8_recipe]
    if model.fp8 and capability < least:
        possible = [name for name, needed in CAPABILITY.items() if capability >= needed]
        raise UserError(
            f"model.fp8={model.fp8} with model.fp8_recipe={model.fp8_recipe} needs a GPU of compute capability "
            f"{least[0]}.{least[1]}, this one has {capability[0]}.{capability[1]}. "
            + (f"Set model.fp8_recipe to {' or '.join(possible)}." if possible else "Set model.fp8=null.")
        )


def _check_ends(model: ModelSettings, num_layers: int) -> None:
    if model.fp8_recipe == "delayed":
        raise UserError(
            "model.first_last_layers_bf16=true with model.fp8_recipe=delayed: Transformer Engine scales all layers "
            "together then. Set model.fp8_recipe=tensorwise."
        )
    ends = model.num_layers_at_start_in_bf16, model.num_layers_at_end_in_bf16
    if min(ends) < 0 or sum(ends) > num_layers:
        raise UserError(
            f"model.num_layers_at_start_in_bf16={ends[0]} and model.num_layers_at_end_in_bf16={ends[1]}: expected 0 or "
            f"more, together at most num_layers={num_layers}."
        )

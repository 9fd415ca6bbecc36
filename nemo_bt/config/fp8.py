"""FP8 of the linear layers, under NeMo's names: what it asks of a run and of the number of rows in a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo_bt.config.model import ModelSettings, Settings
from nemo_bt.errors import UserError

RECIPES = {"delayed": 16, "tensorwise": 16, "blockwise": 128, "mxfp8": 32}
"""Multiple of rows that a matrix has on each rank, for cuBLAS and the kernels that scale."""
COLUMNS = {"delayed": 16, "tensorwise": 16, "blockwise": 16, "mxfp8": 32}
"""Multiple of the other side of a matrix; blockwise gathers 128 columns at a time, where ranks share a sequence."""
CAPABILITY = {"delayed": (8, 9), "tensorwise": (8, 9), "blockwise": (9, 0), "mxfp8": (10, 0)}
"""Least compute capability of the GPU. Source, as of the next: transformer_engine/pytorch/quantization.py,
check_*_support."""
CUDA = {"blockwise": (12, 9)}
"""Least CUDA, where a recipe needs another than Transformer Engine itself."""


def row_multiple(model: Any) -> int:
    """Give the number that divides the rows of a linear layer's input: 1 without FP8.

    Args:
        model: settings, or a configuration of Megatron: both have `fp8` and `fp8_recipe`.
    """
    return RECIPES[str(model.fp8_recipe)] if model.fp8 else 1


def fp8_options(model: ModelSettings) -> dict[str, Any]:
    """Give what NeMo's plugin and Megatron's configuration are told, under shared names; nothing without FP8."""
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


def check_gpu(settings: Settings, capability: tuple[int, int], cuda: str) -> None:
    """Check that a GPU and its software have the FP8 that is asked of them.

    Args:
        capability: compute capability of the GPU, (9, 0) for H100 and H200.
        cuda: version of CUDA that torch is built for, "12.9".

    Raises:
        UserError: they have not.
    """
    model = settings.model
    lacks = _lacks(model.fp8_recipe, capability, cuda)
    if model.fp8 and lacks:
        possible = [name for name in CAPABILITY if not _lacks(name, capability, cuda)]
        raise UserError(
            f"model.fp8={model.fp8} with model.fp8_recipe={model.fp8_recipe} needs {lacks}. "
            + (f"Set model.fp8_recipe to {' or '.join(possible)}." if possible else "Set model.fp8=null.")
        )


def _lacks(recipe: str, capability: tuple[int, int], cuda: str) -> str:
    """Say what a recipe needs and what is there; nothing where that is enough."""
    least = CAPABILITY[recipe]
    if capability < least:
        return f"a GPU of compute capability {_written(least)}, this one has {_written(capability)}"
    least = CUDA.get(recipe, (0, 0))
    enough = tuple(map(int, cuda.split("."))) >= least
    return "" if enough else f"CUDA {_written(least)} or newer, and torch is built for CUDA {cuda}"


def _written(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def num_weight_scales(shape: Sequence[int], recipe: str) -> int:
    """Count the scales of a weight, [rows, columns]: one, or with `blockwise` one for each 128 x 128 values.

    Their rows are filled up to a multiple of 4. Source: transformer-engine 2.9, pytorch/tensor/
    float8_blockwise_tensor.py, get_scale_shape.
    """
    if recipe != "blockwise":
        return 1
    rows, columns = (-(-size // RECIPES["blockwise"]) for size in shape)
    return rows * (-(-columns // 4) * 4)


def layers_in_fp8(model: ModelSettings, num_layers: int) -> range:
    """Give the numbers of the layers whose linear layers are in FP8, from 0; none without FP8.

    Source: megatron-core 0.15.3, fp8_utils.py, is_first_last_bf16_layer.
    """
    if not model.fp8:
        return range(0)
    if not model.first_last_layers_bf16:
        return range(num_layers)
    return range(model.num_layers_at_start_in_bf16, num_layers - model.num_layers_at_end_in_bf16)

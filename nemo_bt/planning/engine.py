"""Bytes that Transformer Engine keeps on a GPU from one step to the next, beside weights, gradients and the optimizer.

Source: transformer-engine 2.9, pytorch/module/base.py and pytorch/tensor/*_tensor.py; megatron-core 0.15.3,
extensions/transformer_engine.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from nemo_bt.config.fp8 import layers_in_fp8
from nemo_bt.config.model import ModelSettings, Settings
from nemo_bt.planning.buffers import FP32_BYTES, activation_bytes
from nemo_bt.planning.parameters import Parameter, layer_parameters
from nemo_bt.planning.rows import part_layers
from nemo_bt.pretrained.architecture import Architecture

WORKSPACE_BYTES = 32 * 2**20 + 1024
"""Of one cuBLAS handle, from Hopper on; GPUs before it have 4 MiB."""
GROUPED_HANDLES = 4
"""Handles that compute experts side by side, each with a workspace of its own."""
_WEIGHT_SCALES = {"delayed": 0.0, "tensorwise": 0.0, "blockwise": FP32_BYTES / 128**2, "mxfp8": 1 / 32}
"""Bytes of scales for each value of a weight: one in fp32 for a block of 128 x 128, or one of a byte for 32."""


def weight_copies(architecture: Architecture, model: ModelSettings, pipeline_rank: int) -> int:
    """Count the copies in FP8 of a rank's weights, by rows and by columns: Hopper's kernels read one side only.

    The weights themselves stay in bf16: a linear layer of 100 x 100 has 20,000 bytes, and 20,000 more. Where they are
    held in FP8, they are the bytes by rows, and the scales of both sides come to them.
    """
    in_fp8 = layers_in_fp8(model, architecture.num_layers)
    parts = range(model.virtual_pipeline_model_parallel_size or 1)
    numbers = [n for part in parts for n in part_layers(model, architecture.num_layers, pipeline_rank, part)]
    num_layers = sum(number in in_fp8 for number in numbers)
    elements = sum(one.num_elements for one in layer_parameters(architecture, model, on_gpu=True) if one.is_linear)
    sides = 1 if model.fp8_param_gather else 2
    return round((sides + 2 * _WEIGHT_SCALES[model.fp8_recipe]) * elements) * num_layers


def workspaces(settings: Settings, parts: Sequence[Sequence[Parameter]]) -> int:
    """Count workspaces of cuBLAS, and a tensor that nobody reads for each shape of a linear layer's weight.

    Kernels add gradients of weights to Megatron's buffer themselves, and such a tensor stands for what they return.
    Where a weight is frozen there is none; adapters are added up by torch.
    """
    own = [parameter for part in parts for parameter in part if parameter.is_linear]
    handles = bool(own) + GROUPED_HANDLES * any(one.is_grouped for one in own)
    unread = {one.shape for one in own if one.is_trained and not one.is_grouped}
    elements = sum(rows * columns for rows, columns in unread)
    return handles * WORKSPACE_BYTES + elements * activation_bytes(settings)

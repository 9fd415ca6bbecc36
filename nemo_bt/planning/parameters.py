"""Parameters that a rank holds: how many elements each, in the order in which Megatron registers them.

Shapes are those of a checkpoint, taken apart by layer, expert and rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from nemo_bt.config.fp8 import layers_in_fp8
from nemo_bt.config.model import ModelSettings
from nemo_bt.planning.rows import part_layers
from nemo_bt.pretrained.adapters import A_WEIGHT, B_WEIGHT
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.check import expected_tensors
from nemo_bt.pretrained.convert import megatron_infos
from nemo_bt.pretrained.names import EMBEDDING, HEADS

_LAYERS = "decoder.layers."
"""Start of the names of stacked tensors."""
_EXPERTS = "mlp.experts.experts."
_ATTENTION_ORDER = ("linear_proj", "linear_qkv", "q_layernorm", "k_layernorm")
_ORDER = ("self_attention", "pre_mlp_layernorm", "mlp.router", "mlp.linear_fc1", "mlp.linear_fc2", "mlp.experts")
_NORM = ("layer_norm_weight", "layer_norm_bias")
_LINEAR = ("weight", "bias", "post_layernorm.weight")
_SPLIT_BY_ROWS = ("linear_qkv.weight", "linear_qkv.bias", "fc1.weight")
_SPLIT_BY_COLUMNS = ("linear_proj.weight", "fc2.weight")
_LINEAR_WEIGHTS = ("linear_qkv.weight", *_SPLIT_BY_COLUMNS, "fc1.weight")


@dataclass(frozen=True)
class Parameter:
    """One tensor of a rank.

    Args:
        name: its name in a checkpoint, without the layer's number.
        shape: on this rank.
        is_expert: it belongs to an expert, and experts are shared out: the ranks with a copy are not those of the rest.
        is_trained: it has a gradient and a state of the optimizer.
        is_fp8: it is held in FP8 alone.
    """

    name: str
    shape: tuple[int, ...]
    is_expert: bool = False
    is_trained: bool = True
    is_fp8: bool = False

    @property
    def num_elements(self) -> int:
        """Count its elements on this rank."""
        return math.prod(self.shape)

    @property
    def is_grouped(self) -> bool:
        """Tell whether it is one of a layer's experts, which Transformer Engine computes together."""
        return _EXPERTS in self.name

    @property
    def is_linear(self) -> bool:
        """Tell whether it is the weight of a linear layer of Transformer Engine."""
        return self.name.endswith(_LINEAR_WEIGHTS)


@cache
def layer_tensors(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a checkpoint of one layer: all layers are alike, and many take long to describe."""
    one_layer = replace(architecture, num_layers=1)
    return {name: info.shape for name, info in megatron_infos(expected_tensors(one_layer), one_layer).items()}


def rank_parameters(
    architecture: Architecture, model: ModelSettings, pipeline_rank: int, on_gpu: bool = False
) -> list[list[Parameter]]:
    """List the parameters of a rank for each part of an interleaved pipeline, in Megatron's order.

    Every tensor-, data- and context-parallel rank of a stage has the same sizes.

    Args:
        on_gpu: layers are Transformer Engine's, which register a norm first, and experts matrix by matrix.
    """
    shapes = layer_tensors(architecture)
    num_parts = model.virtual_pipeline_model_parallel_size or 1
    stages = model.pipeline_model_parallel_size
    layer = layer_parameters(architecture, model, on_gpu)
    layer_in_fp8 = [replace(one, is_fp8=one.is_linear) for one in layer]
    in_fp8 = layers_in_fp8(model, architecture.num_layers) if model.fp8_param_gather else range(0)
    lora = model.peft.lora
    parts = []
    for part in range(num_parts):
        numbers = part_layers(model, architecture.num_layers, pipeline_rank, part)
        parameters = [one for number in numbers for one in (layer_in_fp8 if number in in_fp8 else layer)]
        if pipeline_rank == part == 0:
            vocabulary, *width = shapes[EMBEDDING]
            table = (vocabulary // model.tensor_model_parallel_size, *width)
            parameters = [Parameter(EMBEDDING, table, is_trained=not lora), *parameters]
        if pipeline_rank == stages - 1 and part == num_parts - 1:
            norms = [name for name in shapes if name.startswith("decoder.final_layernorm")]
            last = [*norms, *(name for name in HEADS if name in shapes)]
            ends = [Parameter(name, shapes[name], is_trained=not lora or name in HEADS) for name in last]
            parameters = [*parameters, *ends]
        parts.append(parameters)
    return parts


def layer_parameters(architecture: Architecture, model: ModelSettings, on_gpu: bool) -> list[Parameter]:
    """List the parameters of one layer of a rank; torch's experts come one after the other."""
    shapes = layer_tensors(architecture)
    order = (*_NORM, *_LINEAR) if on_gpu else (*_LINEAR, *_NORM)
    names = sorted((name for name in shapes if name.startswith(_LAYERS)), key=partial(_place, order))
    dense = []
    for name in names:
        if _EXPERTS not in name:
            dense += [_parameter(name, shapes[name][1:], model), *_adapter(name, shapes[name][1:], model)]
    stacked = [name for name in names if _EXPERTS in name]
    if not stacked:
        return dense
    num_local = shapes[stacked[0]][1] // model.expert_model_parallel_size
    of_expert = [_parameter(name, shapes[name][2:], model) for name in stacked]
    if not on_gpu:
        return dense + of_expert * num_local
    return dense + [parameter for parameter in of_expert for _ in range(num_local)]


def _parameter(name: str, shape: tuple[int, ...], model: ModelSettings) -> Parameter:
    tp = model.tensor_model_parallel_size
    if name.endswith(_SPLIT_BY_ROWS):
        shape = (shape[0] // tp, *shape[1:])
    elif name.endswith(_SPLIT_BY_COLUMNS):
        shape = (shape[0], shape[1] // tp)
    is_shared_out = _EXPERTS in name and model.expert_model_parallel_size > 1
    return Parameter(name, shape, is_shared_out, is_trained=not model.peft.lora)


def _adapter(name: str, shape: tuple[int, ...], model: ModelSettings) -> list[Parameter]:
    """List the matrices of the adapter beside a linear layer, in Megatron's order; every rank has a slice of both."""
    lora = model.peft.lora
    *_, module, kind = name.split(".")
    if not lora or kind != "weight" or module not in lora.target_modules:
        return []
    tp, (rows, columns) = model.tensor_model_parallel_size, shape
    stem = name.removesuffix(".weight")
    splits_columns = name.endswith(_SPLIT_BY_COLUMNS)
    first = (lora.adapter_dim, columns // tp) if splits_columns else (lora.adapter_dim // tp, columns)
    return [Parameter(stem + A_WEIGHT, first), Parameter(stem + B_WEIGHT, (rows // tp, lora.adapter_dim))]


def _place(order: Sequence[str], name: str) -> tuple[int, ...]:
    """Give the place at which Megatron's modules register a parameter."""
    rest = name.removeprefix(_LAYERS)
    block = next(number for number, start in enumerate(_ORDER) if rest.startswith(start))
    module = next((n for n, part in enumerate(_ATTENTION_ORDER) if f".{part}." in rest), 0)
    expert = int("linear_fc2" in rest)
    return block, module, expert, next(n for n, part in enumerate(order) if rest.endswith("." + part))

"""Parameters that a rank holds: how many elements each, in the order in which Megatron registers them.

Shapes are those of a checkpoint, taken apart by layer, expert and rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from nemo_bt.config.model import ModelSettings
from nemo_bt.config.parallelism import stage_layers
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.check import expected_tensors
from nemo_bt.pretrained.convert import megatron_infos
from nemo_bt.pretrained.names import EMBEDDING, HEADS

_LAYERS = "decoder.layers."
"""Start of the names of stacked tensors."""
_EXPERTS = "mlp.experts.experts."
_ATTENTION_ORDER = ("linear_proj", "linear_qkv", "q_layernorm", "k_layernorm")
_ORDER = ("self_attention", "pre_mlp_layernorm", "mlp.router", "mlp.linear_fc1", "mlp.linear_fc2", "mlp.experts")
_PARTS = ("weight", "bias", "post_layernorm.weight", "layer_norm_weight", "layer_norm_bias")
_SPLIT_OVER_TENSOR_RANKS = ("linear_qkv.weight", "linear_qkv.bias", "linear_proj.weight", "fc1.weight", "fc2.weight")


@dataclass(frozen=True)
class Parameter:
    """One tensor of a rank.

    Args:
        name: its name in a checkpoint, without the layer's number.
        num_elements: elements on this rank.
        is_expert: it belongs to an expert, and experts are shared out: the ranks with a copy are not those of the rest.
    """

    name: str
    num_elements: int
    is_expert: bool


@cache
def layer_tensors(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a checkpoint of one layer: all layers are alike, and many take long to describe."""
    one_layer = replace(architecture, num_layers=1)
    return {name: info.shape for name, info in megatron_infos(expected_tensors(one_layer), one_layer).items()}


def rank_parameters(architecture: Architecture, model: ModelSettings, pipeline_rank: int) -> list[list[Parameter]]:
    """List the parameters of a rank for each part of an interleaved pipeline, in Megatron's order.

    Every tensor-, data- and context-parallel rank of a stage has the same sizes.
    """
    shapes = layer_tensors(architecture)
    num_parts = model.virtual_pipeline_model_parallel_size or 1
    stages = model.pipeline_model_parallel_size
    layers = stage_layers(model, architecture.num_layers)[pipeline_rank] // num_parts
    layer = _layer_parameters(shapes, model)
    parts = []
    for part in range(num_parts):
        parameters = layer * layers
        if pipeline_rank == part == 0:
            embedding = math.prod(shapes[EMBEDDING]) // model.tensor_model_parallel_size
            parameters = [Parameter(EMBEDDING, embedding, False), *parameters]
        if pipeline_rank == stages - 1 and part == num_parts - 1:
            norms = [name for name in shapes if name.startswith("decoder.final_layernorm")]
            last = [*norms, *(name for name in HEADS if name in shapes)]
            parameters = [*parameters, *(Parameter(name, math.prod(shapes[name]), False) for name in last)]
        parts.append(parameters)
    return parts


def _layer_parameters(shapes: dict[str, tuple[int, ...]], model: ModelSettings) -> list[Parameter]:
    """List the parameters of one layer; experts come one after the other."""
    names = sorted((name for name in shapes if name.startswith(_LAYERS)), key=_place)
    dense = [_parameter(name, shapes[name][1:], model) for name in names if _EXPERTS not in name]
    stacked = [name for name in names if _EXPERTS in name]
    if not stacked:
        return dense
    num_local = shapes[stacked[0]][1] // model.expert_model_parallel_size
    return dense + [_parameter(name, shapes[name][2:], model) for name in stacked] * num_local


def _parameter(name: str, shape: tuple[int, ...], model: ModelSettings) -> Parameter:
    ranks = model.tensor_model_parallel_size if name.endswith(_SPLIT_OVER_TENSOR_RANKS) else 1
    return Parameter(name, math.prod(shape) // ranks, _EXPERTS in name and model.expert_model_parallel_size > 1)


def _place(name: str) -> tuple[int, ...]:
    """Give the place at which Megatron's modules register a parameter."""
    rest = name.removeprefix(_LAYERS)
    block = next(number for number, start in enumerate(_ORDER) if rest.startswith(start))
    module = next((n for n, part in enumerate(_ATTENTION_ORDER) if f".{part}." in rest), 0)
    expert = int("linear_fc2" in rest)
    return block, module, expert, next(n for n, part in enumerate(_PARTS) if rest.endswith("." + part))

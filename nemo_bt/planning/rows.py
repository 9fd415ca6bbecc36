"""Rows of a stream and layers of a part of the pipeline: how many of them a rank has."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.fp8 import row_multiple
from nemo_bt.config.model import ModelSettings
from nemo_bt.config.parallelism import recomputation, stage_layers
from nemo_bt.pretrained.architecture import Architecture


@dataclass(frozen=True)
class StreamRows:
    """Rows of one stream on a rank.

    Args:
        tokens: length of the whole stream, with padding, T.
        continuations: their number in the stream, C.
        scored: continuations whose scored token this context-parallel rank holds.
        copied: keys that a kernel of attention keeps once more: the prompts' of every continuation behind the first.
    """

    tokens: int
    continuations: int
    scored: int
    copied: int = 0

    def held(self, model: ModelSettings) -> int:
        """Count the rows of this context-parallel rank, t."""
        return self.tokens // model.context_parallel_size

    def handed_on(self, model: ModelSettings) -> int:
        """Count the scored rows, filled up so that tensor-parallel ranks share them and FP8 takes them, c."""
        ranks = sequence_ranks(model) * row_multiple(model)
        return max(1, -(-self.scored // ranks)) * ranks


def sequence_ranks(model: ModelSettings) -> int:
    """Count the ranks that share the rows between attention and MLP."""
    return model.tensor_model_parallel_size if model.sequence_parallel else 1


def hands_on_all(architecture: Architecture, model: ModelSettings) -> bool:
    """Tell whether the last layer hands on all rows, because its router has to see them."""
    return bool(architecture.num_experts and model.moe_aux_loss_coeff)


def recomputed_layers(model: ModelSettings, num_layers: int) -> int:
    """Count the layers that are computed again as a whole, the first of `num_layers` of a part."""
    granularity, method, number = recomputation(model)
    if granularity != "full":
        return 0
    return num_layers if method == "uniform" else min(number or 0, num_layers)


def part_layers(model: ModelSettings, num_layers: int, pipeline_rank: int, part: int) -> range:
    """Give the numbers of a part's layers in the whole model, from 0.

    Eight layers on two ranks of two parts each: the second rank has 2 and 3, and 6 and 7.

    Source: megatron-core 0.15.3, transformer/transformer_layer.py, get_transformer_layer_offset.
    """
    parts = model.virtual_pipeline_model_parallel_size or 1
    layers = [number // parts for number in stage_layers(model, num_layers)]
    start = part * sum(layers) + sum(layers[:pipeline_rank])
    return range(start, start + layers[pipeline_rank])

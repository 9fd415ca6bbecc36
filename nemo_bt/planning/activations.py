"""Bytes that a rank keeps from the forward to the backward pass of a stream, unit by unit, and the most in each pass.

A unit is a layer, or some that are computed again together; what stands before and behind the layers is one too.

Shape suffixes: see `nemo_bt.planning.layer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_bt.config.fp8 import layers_in_fp8
from nemo_bt.config.model import ModelSettings
from nemo_bt.config.parallelism import recomputation
from nemo_bt.planning.buffers import FP32_BYTES, INDEX_BYTES
from nemo_bt.planning.layer import LayerBytes
from nemo_bt.planning.rows import StreamRows, hands_on_all, part_layers, sequence_ranks
from nemo_bt.pretrained.architecture import Architecture


@dataclass(frozen=True)
class Unit:
    """Some layers that are computed, and computed again, together.

    Args:
        kept: bytes from the forward to the backward pass.
        in_backward: of these, and what is computed again, during its own backward pass.
        most: the same at any time of that pass, with gradients and messages.
    """

    kept: int
    in_backward: int
    most: int


def part_units(
    architecture: Architecture,
    model: ModelSettings,
    pipeline_rank: int,
    part: int,
    rows: StreamRows,
    dtype_bytes: int,
    on_gpu: bool = False,
) -> list[Unit]:
    """Count the units of one part of a pipeline rank, in the order of the forward pass.

    Args:
        part: number of the part in an interleaved pipeline; 0 without one.
        dtype_bytes: size of one value of an activation.
        on_gpu: layers are Transformer Engine's and attention is a kernel's.
    """
    numbers = part_layers(model, architecture.num_layers, pipeline_rank, part)
    is_last = numbers.stop == architecture.num_layers
    hands_on_scored = is_last and not hands_on_all(architecture, model)
    in_fp8 = layers_in_fp8(model, architecture.num_layers)
    kinds = [(number in in_fp8, hands_on_scored and number == numbers[-1]) for number in numbers]
    found = {}
    for fp8, is_end in set(kinds):
        found[fp8, is_end] = _layer(LayerBytes(architecture, model, rows, dtype_bytes, on_gpu, fp8), model, is_end)
    units = [found[kind] for kind in kinds]
    granularity, method, group = recomputation(model)
    own_input = dtype_bytes * rows.held(model) // sequence_ranks(model) * architecture.hidden_size
    if granularity == "full" and method == "uniform":
        starts = range(0, len(units), group or 1)
        units = [_recomputed(units[start : start + (group or 1)], own_input) for start in starts]
    elif granularity == "full":
        units = [_recomputed([unit], own_input) for unit in units[: group or 0]] + units[group or 0 :]
    ends = _Ends(architecture, model, rows, dtype_bytes)
    first = ends.angles(FP32_BYTES if on_gpu else dtype_bytes)
    table = 0
    if numbers.start == 0:
        first += ends.embedding()
        table = 0 if model.peft.lora else ends.embedding_gradient()
    last = ends.head(scored_already=hands_on_scored) if is_last else 0
    return [Unit(first, first, first + table), *units, Unit(last, last, last)]


def part_bytes(units: Sequence[Unit]) -> tuple[int, int]:
    """Count the bytes kept of a part between its passes, and the most during its backward pass."""
    return sum(unit.kept for unit in units), _most(units, [unit.in_backward for unit in units])


def part_most(units: Sequence[Unit]) -> int:
    """Count the most bytes at any time of a part's backward pass, with gradients and messages."""
    return _most(units, [unit.most for unit in units])


def _most(units: Sequence[Unit], own: Sequence[int]) -> int:
    """Add to each unit's own bytes those that the units before it keep, and find the most."""
    before = most = 0
    for unit, bytes_ in zip(units, own, strict=True):
        most = max(most, before + bytes_)
        before += unit.kept
    return max(most, before)


def _layer(counts: LayerBytes, model: ModelSettings, is_last: bool) -> Unit:
    kept, again = counts.kept(is_last), 0
    if model.activations_checkpoint_granularity == "selective":
        again = counts.attention()
        kept += counts.recomputed_attention() - again
    return Unit(kept, kept + again, kept + again + counts.gradients(is_last))


def _recomputed(units: Sequence[Unit], own_input: int) -> Unit:
    """Count layers that keep their input alone and compute the rest again; their output is then there once more."""
    return Unit(own_input, sum(unit.kept for unit in units), part_most(units) + own_input)


@dataclass(frozen=True)
class _Ends:
    """What stands before and behind the layers."""

    architecture: Architecture
    model: ModelSettings
    rows: StreamRows
    dtype_bytes: int

    def embedding(self) -> int:
        """Count token ids; tensor-parallel ranks keep a copy of them too, and a mask of those of other ranks."""
        return self.rows.held(self.model) * INDEX_BYTES * (1 if self.model.tensor_model_parallel_size == 1 else 2)

    def embedding_gradient(self) -> int:
        """Count the gradient of the whole table, which is added to the buffer of gradients afterwards."""
        vocabulary = self.architecture.padded_vocab_size // self.model.tensor_model_parallel_size
        return self.dtype_bytes * vocabulary * self.architecture.hidden_size

    def angles(self, number_bytes: int) -> int:
        """Count what turns queries and keys: angles on a GPU, their cosines and sines on a CPU."""
        num_kinds = len(self.architecture.rotary_frequencies)
        return number_bytes * self.rows.held(self.model) * self.architecture.rotated_size * num_kinds

    def head(self, scored_already: bool) -> int:
        """Count the last norm and the reward head."""
        handed = self.rows.handed_on(self.model)
        rows = handed if scored_already else self.rows.held(self.model)
        rows_here, handed_here = (number // sequence_ranks(self.model) for number in (rows, handed))
        hidden_size, of_head = self.architecture.hidden_size, self.architecture.head_hidden_size or 0
        copy = hidden_size * of_head if self.dtype_bytes < FP32_BYTES else 0  # of a hidden layer, in fp32
        statistics = 2 if self.architecture.is_layer_norm else 1
        norm = rows_here * (self.dtype_bytes * hidden_size + FP32_BYTES * statistics)
        return norm + FP32_BYTES * (handed_here * (hidden_size + of_head) + copy)

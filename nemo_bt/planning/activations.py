"""Bytes that a rank keeps from the forward to the backward pass of a stream, layer by layer.

They are counted from what each module saves for its backward pass: a norm its input and 1 / rms of each row, a linear
layer its input, SwiGLU gate and up, attention the rotated queries, keys and values. Probabilities are never kept.
Korthikanti et al. 2022 (arXiv 2205.05198), section 4, count a layer with attention that keeps them.

Shape suffixes: T = tokens of the stream, t = T / CP of them on this rank, s = t / TP under sequence parallelism and t
without, c = scored rows that the last layer hands on.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.model import ModelSettings
from nemo_bt.config.parallelism import recomputation, stage_layers
from nemo_bt.planning.state import FP32_BYTES, INDEX_BYTES
from nemo_bt.pretrained.architecture import Architecture

_COMPUTED = {"silu": 0, "gelu": 0, "gelu_pytorch_tanh": 0, "relu2": 1}
"""Tensors of the size of its input that an activation function keeps beside it, or in its place (relu2)."""


@dataclass(frozen=True)
class StreamRows:
    """Rows of one stream on a rank.

    Args:
        tokens: length of the whole stream, with padding, T.
        continuations: their number in the stream, C.
        scored: continuations whose scored token this context-parallel rank holds.
        copied: keys that a kernel of attention keeps once more: those of every continuation behind the first of its
            prompt, with their prefix; counted as if the first were copied too.
    """

    tokens: int
    continuations: int
    scored: int
    copied: int = 0

    def held(self, model: ModelSettings) -> int:
        """Count the rows of this context-parallel rank, t."""
        return self.tokens // model.context_parallel_size

    def handed_on(self, model: ModelSettings) -> int:
        """Count the scored rows, filled up so that tensor-parallel ranks share them, c."""
        ranks = sequence_ranks(model)
        return max(1, -(-self.scored // ranks)) * ranks


@dataclass(frozen=True)
class Unit:
    """Some layers that are computed, and computed again, together.

    Args:
        kept: bytes from the forward to the backward pass.
        in_backward: bytes during its own backward pass.
    """

    kept: int
    in_backward: int


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
    counts = _Counts(architecture, model, rows, dtype_bytes, on_gpu)
    stages = model.pipeline_model_parallel_size
    parts = model.virtual_pipeline_model_parallel_size or 1
    is_last = pipeline_rank == stages - 1 and part == parts - 1
    num_layers = stage_layers(model, architecture.num_layers)[pipeline_rank] // parts
    hands_on_scored = is_last and not hands_on_all(architecture, model)
    units = [counts.layer(hands_on_scored and number == num_layers - 1) for number in range(num_layers)]
    granularity, method, number = recomputation(model)
    if granularity == "full" and method == "uniform":
        units = [counts.recomputed(units[start : start + (number or 1)]) for start in range(0, num_layers, number or 1)]
    elif granularity == "full":
        units = [counts.recomputed([unit]) for unit in units[: number or 0]] + units[number or 0 :]
    first = counts.embedding() if pipeline_rank == part == 0 else 0
    if granularity == "full" or on_gpu:
        first += counts.angles()
    last = counts.head(scored_already=hands_on_scored) if is_last else 0
    return [Unit(first, first), *units, Unit(last, last)]


def part_bytes(units: list[Unit]) -> tuple[int, int]:
    """Count the bytes kept of a part between its passes, and the most during its backward pass."""
    before = most = 0
    for unit in units:
        most = max(most, before + unit.in_backward)
        before += unit.kept
    return before, max(most, before)


@dataclass(frozen=True)
class _Counts:
    architecture: Architecture
    model: ModelSettings
    rows: StreamRows
    dtype_bytes: int
    on_gpu: bool

    @property
    def _tp(self) -> int:
        return self.model.tensor_model_parallel_size

    def layer(self, is_last: bool) -> Unit:
        """Count one layer; the last hands on scored rows alone."""
        held = self.rows.held(self.model)
        handed = self.rows.handed_on(self.model) if is_last else held
        before = held // sequence_ranks(self.model)
        after = handed // sequence_ranks(self.model)
        attention = self._linear_with_norm(before) + self._rotation(held)
        projection = self.dtype_bytes * handed * self.architecture.query_size // self._tp
        post_norms = 2 * self._norm(after) if self.architecture.family.has_post_norms else 0
        mlp = self._linear_with_norm(after) + self._activation(handed)
        rest = attention + projection + post_norms + (self._experts(after) if self.architecture.num_experts else mlp)
        if self.model.activations_checkpoint_granularity == "selective":
            kept = rest + self._recomputed_attention(held)
            return Unit(kept, kept + self._attention(held))
        return Unit(*[rest + self._attention(held)] * 2)

    def recomputed(self, units: list[Unit]) -> Unit:
        """Count layers that keep their input alone and compute the rest again."""
        rows = self.rows.held(self.model) // sequence_ranks(self.model)
        return Unit(self.dtype_bytes * rows * self.architecture.hidden_size, sum(unit.kept for unit in units))

    def embedding(self) -> int:
        """Count token ids; tensor-parallel ranks keep a copy of them too, and a mask of those of other ranks."""
        return self.rows.held(self.model) * INDEX_BYTES * (1 if self._tp == 1 else 2)

    def angles(self) -> int:
        """Count rotary angles, an input of every recomputed unit and of a fused rotation."""
        num_kinds = len(self.architecture.rotary_frequencies)
        return FP32_BYTES * self.rows.held(self.model) * self.architecture.rotated_size * num_kinds

    def head(self, scored_already: bool) -> int:
        """Count the last norm and the reward head."""
        handed = self.rows.handed_on(self.model)
        rows = handed if scored_already else self.rows.held(self.model)
        rows_here, handed_here = (number // sequence_ranks(self.model) for number in (rows, handed))
        hidden_size, of_head = self.architecture.hidden_size, self.architecture.head_hidden_size or 0
        copy = hidden_size * of_head if self.dtype_bytes < FP32_BYTES else 0  # of a hidden layer, in fp32
        return self._norm(rows_here) + FP32_BYTES * (handed_here * (hidden_size + of_head) + copy)

    def _norm(self, rows: int) -> int:
        statistics = 2 if self.architecture.is_layer_norm else 1
        return rows * (self.dtype_bytes * self.architecture.hidden_size + FP32_BYTES * statistics)

    def _linear_with_norm(self, rows: int) -> int:
        """Count the input of the norm and its output, which is the input of the linear layer behind it."""
        return self._norm(rows) + self.dtype_bytes * rows * self.architecture.hidden_size

    def _rotation(self, rows: int) -> int:
        """Count cosine and sine for queries and keys, and inputs of head norms: the keys' is a view of all three."""
        architecture = self.architecture
        angles = 0 if self.on_gpu else 4 * self.dtype_bytes * rows * architecture.rotated_size
        if not architecture.has_head_norms:
            return angles
        inputs = self.dtype_bytes * rows * (2 * architecture.query_size + 2 * architecture.key_size)
        num_heads = architecture.heads.num_heads + architecture.heads.num_groups
        return angles + (inputs + FP32_BYTES * rows * num_heads) // self._tp

    def _attention(self, rows: int) -> int:
        """Count queries, keys and values.

        A kernel keeps its output too, a number for each row and head, and, but for the one with a soft cap, keys and
        values of later continuations together with their prefix.
        """
        queries = rows * self.architecture.query_size
        if self.on_gpu:
            copied = 0 if self.architecture.softcap else self.rows.copied
            elements = 2 * queries + 2 * (self.rows.tokens + copied) * self.architecture.key_size
            row_numbers = FP32_BYTES * rows * self.architecture.heads.num_heads
            return (self.dtype_bytes * elements + row_numbers) // self._tp
        return FP32_BYTES * (queries + 2 * self.rows.tokens * self.architecture.key_size) // self._tp

    def _recomputed_attention(self, rows: int) -> int:
        """Count queries and keys; values are a view of all three in one."""
        fused = self.architecture.query_size + 2 * self.architecture.key_size
        return self.dtype_bytes * rows * (self.architecture.query_size + self.architecture.key_size + fused) // self._tp

    def _activation(self, rows: int, more: int = 0) -> int:
        """Count what lies between the linear layers and the second's input; only silu multiplies its gate in one go."""
        architecture = self.architecture
        of_first = 0 if architecture.activation == "relu2" else 2 if architecture.family.is_gated else 1
        factors = 2 if architecture.family.is_gated and architecture.activation != "silu" else 0
        tensors = of_first + _COMPUTED[architecture.activation] + factors + more + 1
        return self.dtype_bytes * rows * architecture.ffn_size // self._tp * tensors

    def _experts(self, rows_here: int) -> int:
        """Count router and experts, with tokens spread evenly over experts.

        Every tensor-parallel rank has a slice of the experts and the rows of all of them.
        """
        architecture = self.architecture
        chosen = rows_here * architecture.topk
        rows = chosen * self._tp if self.model.sequence_parallel else chosen
        router = self._linear_with_norm(rows_here) + FP32_BYTES * rows_here * architecture.num_experts * 3
        permuted = self.dtype_bytes * rows * architecture.hidden_size + INDEX_BYTES * (2 * chosen)
        return router + permuted + self._activation(rows, more=1)

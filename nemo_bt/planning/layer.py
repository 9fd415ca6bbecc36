"""Bytes that a layer keeps from the forward to the backward pass of a stream, and those of gradients in that pass.

They are counted from what each module saves for its backward pass: a norm its input and 1 / rms of each row, a linear
layer its input, SwiGLU gate and up, attention the rotated queries, keys and values. Probabilities are never kept.
Korthikanti et al. 2022 (arXiv 2205.05198), section 4, count a layer with attention that keeps them.

Shape suffixes: T = tokens of the stream, t = T / CP of them on this rank, s = t / TP under sequence parallelism and t
without, c = scored rows that the last layer hands on.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.model import ModelSettings
from nemo_bt.planning.buffers import FP32_BYTES, INDEX_BYTES
from nemo_bt.planning.linear import FC1, FC2, PROJECTION, QKV, Linears
from nemo_bt.planning.rows import StreamRows, sequence_ranks
from nemo_bt.pretrained.architecture import Architecture

_COMPUTED = {"silu": 0, "gelu": 0, "gelu_pytorch_tanh": 0, "relu2": 1}
"""Tensors of the size of its input that an activation function keeps beside it, or in its place (relu2)."""


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one layer.

    Args:
        dtype_bytes: size of one value of an activation that is not in FP8.
        on_gpu: it is Transformer Engine's and attention is a kernel's.
        in_fp8: its linear layers compute in FP8.
    """

    architecture: Architecture
    model: ModelSettings
    rows: StreamRows
    dtype_bytes: int
    on_gpu: bool
    in_fp8: bool

    def kept(self, is_last: bool) -> int:
        """Count what is kept; the last layer hands on scored rows alone."""
        handed = self._handed(is_last)
        post_norms = 2 * self._norm(self._here(handed)) if self.architecture.family.has_post_norms else 0
        return self._before_mlp(is_last) + post_norms + self._mlp(handed)

    def gradients(self, is_last: bool) -> int:
        """Count what the backward pass has at its most beyond what is kept.

        The MLP's comes first; that of attention follows when what the MLP kept is free.
        """
        handed = self._handed(is_last)
        held = self.rows.held(self.model)
        beside = self.dtype_bytes * self._here(held) * self.architecture.hidden_size  # of the layer's output
        mlp = self._experts_gradients(handed) if self.architecture.num_experts else self._mlp_gradients(handed)
        later = self.kept(is_last) - self._before_mlp(is_last)
        return beside + max(mlp, self._attention_gradients(held) - later)

    def attention(self) -> int:
        """Count queries, keys and values.

        A kernel keeps its output too, a number for each row and head, and, but for the one with a soft cap, keys and
        values of later continuations together with their prefix.
        """
        rows = self.rows.held(self.model)
        queries = rows * self.architecture.query_size
        if self._has_kernel:
            elements = 2 * queries + 2 * self._keys * self.architecture.key_size
            row_numbers = FP32_BYTES * rows * self.architecture.heads.num_heads
            return (self.dtype_bytes * elements + row_numbers) // self._tp
        return FP32_BYTES * (queries + 2 * self.rows.tokens * self.architecture.key_size) // self._tp

    def recomputed_attention(self) -> int:
        """Count queries and keys; values are a view of all three in one."""
        rows = self.rows.held(self.model)
        return self.dtype_bytes * rows * (2 * self.architecture.query_size + 3 * self.architecture.key_size) // self._tp

    @property
    def _keys(self) -> int:
        """Keys that a kernel is given: FlexAttention reads those of a prefix where they lie."""
        return self.rows.tokens + (0 if self.architecture.softcap else self.rows.copied)

    @property
    def _tp(self) -> int:
        return self.model.tensor_model_parallel_size

    @property
    def _linears(self) -> Linears:
        return Linears(self.model, self.dtype_bytes, self.on_gpu, self.in_fp8)

    @property
    def _has_kernel(self) -> bool:
        """One for a soft cap takes fp32 too."""
        return self.on_gpu and (self.dtype_bytes < FP32_BYTES or self.architecture.softcap is not None)

    def _handed(self, is_last: bool) -> int:
        return self.rows.handed_on(self.model) if is_last else self.rows.held(self.model)

    def _here(self, rows: int) -> int:
        return rows // sequence_ranks(self.model)

    def _before_mlp(self, is_last: bool) -> int:
        held = self.rows.held(self.model)
        projection = self.architecture.query_size // self._tp
        return (
            self._norm_and_input(QKV, self._here(held))
            + self._head_norms(held)
            + self.attention()
            + self._linears.input(PROJECTION, self._handed(is_last), projection, is_shared=True)
        )

    def _norm(self, rows: int) -> int:
        statistics = 2 if self.architecture.is_layer_norm else 1
        return rows * (self.dtype_bytes * self.architecture.hidden_size + FP32_BYTES * statistics)

    def _norm_and_input(self, name: str, rows: int) -> int:
        """Count the input of the norm and its output, which is the input of the linear layer behind it."""
        return self._norm(rows) + self._linears.normed(name, rows, self.architecture.hidden_size)

    def _head_norms(self, rows: int) -> int:
        """Count the inputs of head norms: the keys' is a view of queries, keys and values."""
        architecture = self.architecture
        if not architecture.has_head_norms:
            return 0
        inputs = self.dtype_bytes * rows * (2 * architecture.query_size + 2 * architecture.key_size)
        num_heads = architecture.heads.num_heads + architecture.heads.num_groups
        return (inputs + FP32_BYTES * rows * num_heads) // self._tp

    @property
    def _width(self) -> int:
        return self.architecture.ffn_size // self._tp

    @property
    def _inner(self) -> int:
        """Columns that the first linear layer of the MLP gives."""
        return (2 if self.architecture.family.is_gated else 1) * self._width

    def _mlp(self, rows: int) -> int:
        if self.architecture.num_experts:
            return self._experts(self._here(rows))
        first = self._norm_and_input(FC1, self._here(rows))
        return first + self._activation(rows) + self._linears.input(FC2, rows, self._width)

    def _activation(self, rows: int) -> int:
        """Count what lies between the linear layers; only silu multiplies its gate in one go."""
        architecture = self.architecture
        of_first = 0 if architecture.activation == "relu2" else self._inner // self._width
        factors = 2 if architecture.family.is_gated and architecture.activation != "silu" else 0
        tensors = of_first + _COMPUTED[architecture.activation] + factors
        return self.dtype_bytes * rows * self._width * tensors

    def _experts(self, rows_here: int) -> int:
        """Count router and experts, with tokens spread evenly over experts.

        Every tensor-parallel rank has a slice of the experts and the rows of all of them. A kernel multiplies by the
        router's weights as it computes SwiGLU; what torch computes one by one keeps the product beside it.
        """
        architecture = self.architecture
        chosen, rows = self._chosen(rows_here)
        router = self._norm(rows_here) + self.dtype_bytes * rows_here * architecture.hidden_size
        router += FP32_BYTES * rows_here * architecture.num_experts * 3
        permuted = self._linears.input(FC1, rows, architecture.hidden_size) + INDEX_BYTES * (2 * chosen)
        one_by_one = 0 if self.on_gpu and architecture.activation == "silu" else self.dtype_bytes * rows * self._width
        second = self._linears.input(FC2, rows, self._width)
        return router + permuted + self._activation(rows) + one_by_one + second

    def _chosen(self, rows_here: int) -> tuple[int, int]:
        """Count the choices of rows here, and the rows that the experts here get."""
        chosen = rows_here * self.architecture.topk
        return chosen, chosen * sequence_ranks(self.model)

    def _mlp_gradients(self, rows: int) -> int:
        """Find the most of the MLP's backward pass, after each of its three steps."""
        of_output = rows * self.architecture.hidden_size
        gathered = self.dtype_bytes * of_output if sequence_ranks(self.model) > 1 else 0
        inner, width = rows * self._inner, rows * self._width
        after_second = gathered + self._linears.gradient(of_output) + self.dtype_bytes * width
        after_activation = self.dtype_bytes * (width + inner) - self._linears.input(FC2, rows, self._width)
        first = gathered + self._linears.gradient(inner) + self.dtype_bytes * (inner + of_output)
        free = self._activation(rows) + self._linears.input(FC2, rows, self._width)
        lora = self.model.peft.lora
        # In the forward pass an adapter's output lies beside its own multiple and that of the layer.
        adapter = 3 * self.dtype_bytes * inner if lora and FC1 in lora.target_modules else 0
        return max(after_second, after_activation, first - free, adapter - free)

    def _experts_gradients(self, rows: int) -> int:
        """Find the most of the experts' backward pass.

        Transformer Engine gives Megatron a new tensor, which nobody reads, for the gradient of each weight.
        """
        architecture = self.architecture
        _, rows = self._chosen(self._here(rows))
        num_local = architecture.num_experts // self.model.expert_model_parallel_size
        unread = num_local * self.dtype_bytes * architecture.hidden_size if self.on_gpu else 0
        unread = 0 if self.model.peft.lora else unread
        of_output, inner, width = rows * architecture.hidden_size, rows * self._inner, rows * self._width
        second = self._linears.gradient(of_output) + self.dtype_bytes * (of_output + width) + unread * self._width
        activation = self.dtype_bytes * (width + inner) - self._linears.input(FC2, rows, self._width)
        first = self._linears.gradient(inner) + self.dtype_bytes * (inner + of_output) + unread * self._inner
        free = self._activation(rows) + self._linears.input(FC2, rows, self._width)
        return max(second, activation, first - free)

    def _attention_gradients(self, rows: int) -> int:
        """Find the most of attention's backward pass: behind its kernel, and behind the linear layer before it."""
        architecture = self.architecture
        keys = self._keys * architecture.key_size // self._tp
        queries = rows * architecture.query_size // self._tp
        of_kernel = self.dtype_bytes * (2 * queries + 2 * keys)
        fused = rows * (architecture.query_size + 2 * architecture.key_size) // self._tp
        of_input = self.dtype_bytes * rows * architecture.hidden_size
        gathered = of_input if sequence_ranks(self.model) > 1 else 0
        of_norm = self.dtype_bytes * self._here(rows) * architecture.hidden_size
        lora = self.model.peft.lora
        of_adapter = of_input if lora and QKV in lora.target_modules else 0
        linear = self._linears.gradient(fused) + self.dtype_bytes * fused
        linear += of_input + of_adapter + gathered + of_norm
        return max(of_kernel, linear - self.attention())

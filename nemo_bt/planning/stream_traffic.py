"""Messages of one stream on its way through a rank.

A recomputed layer sends in its second forward pass what it sent in its first. Source: megatron-core 0.15.3,
tensor_parallel/{layers,mappings}.py and transformer/moe/token_dispatcher.py; nemo_bt.model.{attention,
context_parallel,balance,reward_gpt}.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

from nemo_bt.config.fp8 import layers_in_fp8
from nemo_bt.config.model import Settings
from nemo_bt.config.parallelism import recomputation, stage_layers
from nemo_bt.planning.buffers import FP32_BYTES, INDEX_BYTES, activation_bytes, on_gpu
from nemo_bt.planning.linear import FC1, FC2, PROJECTION, QKV, SCALE_BYTES
from nemo_bt.planning.rows import StreamRows, hands_on_all, part_layers, recomputed_layers, sequence_ranks
from nemo_bt.pretrained.architecture import Architecture

_LINEARS = 4
"""Modules of linear layers in a layer; experts' count as one."""


class Sent(NamedTuple):
    """A kind of message.

    Args:
        operation: all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send or receive.
        group: ranks that take part, by Megatron's name of what they share.
        size: bytes of the whole tensor: what all ranks have after an all_gather, or before a reduce_scatter.
    """

    operation: str
    group: str
    size: int


class StreamTraffic:
    """Messages of one stream."""

    def __init__(self, settings: Settings, architecture: Architecture, rows: StreamRows) -> None:
        self.settings = settings
        self.model = settings.model
        self.architecture = architecture
        self.rows = rows
        self.dtype_bytes = activation_bytes(settings)
        self.hidden_bytes = self.dtype_bytes * architecture.hidden_size
        self.on_gpu = on_gpu(settings)

    def of_part(self, pipeline_rank: int, part: int) -> list[Sent]:
        """List the messages of the forward and backward pass of a part of a pipeline rank."""
        model = self.model
        architecture = self.architecture
        stages = model.pipeline_model_parallel_size
        parts = model.virtual_pipeline_model_parallel_size or 1
        numbers = part_layers(model, architecture.num_layers, pipeline_rank, part)
        is_first = pipeline_rank == part == 0
        is_last = pipeline_rank == stages - 1 and part == parts - 1
        held = self.rows.held(model)
        between = self.hidden_bytes * held // sequence_ranks(model)
        sent = [Sent(way, "pp", between) for way in ("send", "receive") for is_end in (is_first, is_last) if not is_end]
        if is_first:
            forward, backward = self._row_parallel(held)
            sent += forward if model.peft.lora else [*forward, *backward]
        num_again = recomputed_layers(model, len(numbers))
        hands_on_scored = is_last and not hands_on_all(architecture, model)
        in_fp8 = layers_in_fp8(model, architecture.num_layers)
        for place, number in enumerate(numbers):
            sent += self._layer(place < num_again, hands_on_scored and number == numbers[-1], number in in_fp8)
        if is_last:
            sent += self._head()
        return sent + self._largest_values(pipeline_rank, len(numbers))

    def _layer(self, is_recomputed: bool, is_last: bool, in_fp8: bool) -> list[Sent]:
        held = self.rows.held(self.model)
        after = self.rows.handed_on(self.model) if is_last else held
        keys, keys_back = self._keys_and_values()
        forward, backward = self._column_parallel(held, QKV, in_fp8)
        out, out_back = self._row_parallel(after, PROJECTION, in_fp8)
        mlp, mlp_back = self._experts(after) if self.architecture.num_experts else self._mlp(after, in_fp8)
        scored, scored_back = self._scored_rows() if is_last else ([], [])
        forward = [*forward, *keys, *out, *scored, *mlp]
        backward = [*backward, *keys_back, *out_back, *scored_back, *mlp_back]
        if self.model.activations_checkpoint_granularity == "selective":
            forward += keys
        return forward * (2 if is_recomputed else 1) + backward + self._balance()

    def _column_parallel(self, rows: int, name: str, in_fp8: bool) -> tuple[list[Sent], list[Sent]]:
        """Send for a linear layer with split output: its input comes from all, and its gradient goes back to all."""
        size = self.hidden_bytes * rows
        if self.model.tensor_model_parallel_size == 1:
            return [], []
        lora = self.model.peft.lora
        has_adapter = lora is not None and name in lora.target_modules
        inner, inner_back = self._adapter(rows) if has_adapter else ([], [])
        if not self.model.sequence_parallel:
            reduce = Sent("all_reduce", "tp", size)
            return inner[:1], inner_back + [reduce] * (1 + has_adapter)
        gather = [Sent("all_gather", "tp", size)]
        scatter = [Sent("reduce_scatter", "tp", size)]
        apart = has_adapter and not self.on_gpu  # Transformer Engine hands on what it has gathered
        forward = self._gathered(rows, in_fp8 and not has_adapter) + gather * apart + inner[:1]
        again = [] if lora else self._gathered(rows, in_fp8)  # for the gradient of the weight
        return forward, again + scatter * (1 + apart) + inner_back

    def _row_parallel(self, rows: int, name: str = "", in_fp8: bool = False) -> tuple[list[Sent], list[Sent]]:
        """Send for a linear layer with split input, or for the embedding: outputs are added up."""
        size = self.hidden_bytes * rows
        if self.model.tensor_model_parallel_size == 1:
            return [], []
        lora = self.model.peft.lora
        has_adapter = lora is not None and name in lora.target_modules
        inner, inner_back = self._adapter(rows) if has_adapter else ([], [])
        # An adapter's output comes to every rank, which takes its rows of it under sequence parallelism.
        whole = [Sent("all_gather", "tp", size)] * has_adapter
        if not self.model.sequence_parallel:
            return [Sent("all_reduce", "tp", size), *inner[1:], *whole], inner_back
        forward = [Sent("reduce_scatter", "tp", size), *inner[1:], *whole]
        return forward, self._gathered(rows, in_fp8, is_gradient=True) + inner_back + whole

    def _gathered(self, rows: int, in_fp8: bool, is_gradient: bool = False) -> list[Sent]:
        """List what brings all rows to every tensor-parallel rank: a byte for each value in FP8, with its scale.

        Where scales are of blocks, a gradient comes twice: scaled along its rows, and along its columns.
        """
        values = rows * self.architecture.hidden_size
        if not in_fp8:
            return [Sent("all_gather", "tp", values * self.dtype_bytes)]
        scales = SCALE_BYTES[self.model.fp8_recipe]
        return [Sent("all_gather", "tp", round(values * (1 + scales)) * (1 + bool(scales and is_gradient)))]

    def _adapter(self, rows: int) -> tuple[list[Sent], list[Sent]]:
        """List what an adapter sends between its matrices: it gathers or adds up, and its gradient is added up."""
        size = self.dtype_bytes * rows * self.model.peft.lora_tuning.adapter_dim
        add = Sent("all_reduce", "tp", size)
        return [Sent("all_gather", "tp", size), add], [add]

    def _largest_values(self, pipeline_rank: int, num_layers: int) -> list[Sent]:
        """List what delayed scaling sends: of every matrix of a rank, after a pass through one of its parts.

        A linear layer has three matrices forward, and two backward. What is computed again sends again, and each of its
        layers ends a backward pass. Source: transformer-engine 2.9, pytorch/quantization.py.
        """
        model = self.model
        if not model.fp8 or model.fp8_recipe != "delayed":
            return []
        experts = self.architecture.num_experts // model.expert_model_parallel_size
        layers_of_rank = stage_layers(model, self.architecture.num_layers)[pipeline_rank]
        size = FP32_BYTES * layers_of_rank * (2 + 2 * max(1, experts))
        again = recomputed_layers(model, num_layers)
        _, method, group = recomputation(model)
        units = -(-again // (group or 1)) if method == "uniform" else again
        forward, backward = (Sent("all_reduce", "tp_dp_cp", factor * size) for factor in (3, 2))
        return [forward] * (1 + units) + [backward] * (1 + _LINEARS * again)

    def _mlp(self, rows: int, in_fp8: bool) -> tuple[list[Sent], list[Sent]]:
        into, into_back = self._column_parallel(rows, FC1, in_fp8)
        out, out_back = self._row_parallel(rows, FC2, in_fp8)
        return into + out, into_back + out_back

    def _experts(self, rows: int) -> tuple[list[Sent], list[Sent]]:
        """Send tokens to the ranks of their experts and back, and so their gradients."""
        model = self.model
        architecture = self.architecture
        tp = model.tensor_model_parallel_size
        ep = model.expert_model_parallel_size
        if tp == ep == 1:
            return [], []
        chosen = rows // sequence_ranks(model) * architecture.topk
        tokens = chosen * self.hidden_bytes
        weights = chosen * FP32_BYTES
        counts = [Sent("all_gather", "tp_ep", tp * ep * architecture.num_experts * INDEX_BYTES)]
        exchange = [Sent("all_to_all", "ep", size) for size in (tokens, weights, tokens)] if ep > 1 else []
        gather = [Sent("all_gather", "tp", tp * size) for size in (tokens, weights)] if tp > 1 else []
        scatter = [Sent("reduce_scatter", "tp", tp * size) for size in (tokens, weights)] if tp > 1 else []
        sums = tp * chosen * FP32_BYTES * architecture.hidden_size  # outputs are added up in the router's dtype
        out, out_back = ([Sent(way, "tp", sums)] if tp > 1 else [] for way in ("reduce_scatter", "all_gather"))
        return counts + exchange + gather + out, exchange + scatter + out_back

    def _balance(self) -> list[Sent]:
        """Send the choices of each sequence once: a first pass whose layers are recomputed does not count them."""
        if not (self.architecture.num_experts and self.model.moe_aux_loss_coeff):
            return []
        return [Sent("all_reduce", "tp_cp", self.rows.continuations * self.architecture.num_experts * FP32_BYTES)]

    def _keys_and_values(self) -> tuple[list[Sent], list[Sent]]:
        model = self.model
        if model.context_parallel_size == 1:
            return [], []
        keys = 2 * self.rows.tokens * self.architecture.key_size // model.tensor_model_parallel_size
        size = self.dtype_bytes * keys
        return [Sent("all_gather", "cp", size)], [Sent("reduce_scatter", "cp", size)]

    def _scored_rows(self) -> tuple[list[Sent], list[Sent]]:
        """Send each rank its share of the rows that are handed on, wherever they were."""
        if not self.model.sequence_parallel:
            return [], []
        size = self.hidden_bytes * self.rows.handed_on(self.model)
        return [Sent("reduce_scatter", "tp", size)], [Sent("all_gather", "tp", size)]

    def _head(self) -> list[Sent]:
        """Send rewards, added up over tensor-parallel ranks that share rows, and over context-parallel ranks."""
        sent = [Sent("all_reduce", "cp", FP32_BYTES * self.rows.continuations)]
        if self.model.sequence_parallel:
            sent.append(Sent("all_reduce", "tp", FP32_BYTES * self.rows.handed_on(self.model)))
        if hands_on_all(self.architecture, self.model):
            sent += [*chain(*self._scored_rows())]
        return sent

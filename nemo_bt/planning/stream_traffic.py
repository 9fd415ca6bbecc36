"""Messages of one stream on its way through a rank.

A recomputed layer sends in its second forward pass what it sent in its first. Source: megatron-core 0.15.3,
tensor_parallel/{layers,mappings}.py and transformer/moe/token_dispatcher.py; nemo_bt.model.{attention,
context_parallel,balance,reward_gpt}.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

from nemo_bt.config.model import Settings
from nemo_bt.config.parallelism import stage_layers
from nemo_bt.planning.activations import StreamRows, hands_on_all, recomputed_layers, sequence_ranks
from nemo_bt.planning.state import FP32_BYTES, INDEX_BYTES, activation_bytes
from nemo_bt.pretrained.architecture import Architecture


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

    def of_part(self, pipeline_rank: int, part: int) -> list[Sent]:
        """List the messages of the forward and backward pass of a part of a pipeline rank."""
        model = self.model
        architecture = self.architecture
        stages = model.pipeline_model_parallel_size
        parts = model.virtual_pipeline_model_parallel_size or 1
        is_first = pipeline_rank == part == 0
        is_last = pipeline_rank == stages - 1 and part == parts - 1
        held = self.rows.held(model)
        between = self.hidden_bytes * held // sequence_ranks(model)
        sent = [Sent(way, "pp", between) for way in ("send", "receive") for is_end in (is_first, is_last) if not is_end]
        if is_first:
            sent += [*chain(*self._row_parallel(held))]
        num_layers = stage_layers(model, architecture.num_layers)[pipeline_rank] // parts
        num_again = recomputed_layers(model, num_layers)
        hands_on_scored = is_last and not hands_on_all(architecture, model)
        for number in range(num_layers):
            sent += self._layer(number < num_again, hands_on_scored and number == num_layers - 1)
        if is_last:
            sent += self._head()
        return sent

    def _layer(self, is_recomputed: bool, is_last: bool) -> list[Sent]:
        held = self.rows.held(self.model)
        after = self.rows.handed_on(self.model) if is_last else held
        keys, keys_back = self._keys_and_values()
        forward, backward = self._column_parallel(held)
        out, out_back = self._row_parallel(after)
        mlp, mlp_back = self._experts(after) if self.architecture.num_experts else self._mlp(after)
        scored, scored_back = self._scored_rows() if is_last else ([], [])
        forward = [*forward, *keys, *out, *scored, *mlp]
        backward = [*backward, *keys_back, *out_back, *scored_back, *mlp_back]
        if self.model.activations_checkpoint_granularity == "selective":
            forward += keys
        return forward * (2 if is_recomputed else 1) + backward + self._balance()

    def _column_parallel(self, rows: int) -> tuple[list[Sent], list[Sent]]:
        """Send for a linear layer with split output: its input comes from all, and its gradient goes back to all."""
        size = self.hidden_bytes * rows
        if self.model.tensor_model_parallel_size == 1:
            return [], []
        if not self.model.sequence_parallel:
            return [], [Sent("all_reduce", "tp", size)]
        gather = Sent("all_gather", "tp", size)
        scatter = Sent("reduce_scatter", "tp", size)
        return [gather], [gather, scatter]  # the input is gathered again for the gradient of the weight

    def _row_parallel(self, rows: int) -> tuple[list[Sent], list[Sent]]:
        """Send for a linear layer with split input, or for the embedding: outputs are added up."""
        size = self.hidden_bytes * rows
        if self.model.tensor_model_parallel_size == 1:
            return [], []
        if not self.model.sequence_parallel:
            return [Sent("all_reduce", "tp", size)], []
        return [Sent("reduce_scatter", "tp", size)], [Sent("all_gather", "tp", size)]

    def _mlp(self, rows: int) -> tuple[list[Sent], list[Sent]]:
        into, into_back = self._column_parallel(rows)
        out, out_back = self._row_parallel(rows)
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
        return counts + exchange + gather + scatter[:1], exchange + scatter + gather[:1]

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

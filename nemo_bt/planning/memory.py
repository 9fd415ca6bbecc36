"""Memory of a rank by part."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.model import Settings
from nemo_bt.planning.activations import StreamRows, part_bytes, part_units, sequence_ranks
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.schedule import peak_bytes, rank_schedule
from nemo_bt.planning.state import activation_bytes, state_bytes
from nemo_bt.planning.stream_traffic import StreamTraffic
from nemo_bt.pretrained.architecture import Architecture


@dataclass(frozen=True)
class RankMemory:
    """Of one rank, in bytes.

    Args:
        stage: pipeline rank.
        weights: in the precision of the run.
        gradients: of all weights.
        optimizer: moments, and main copies of weights.
        activations: at their most.
        buffers: of the largest message, in and out, and of what the largest layer computes in its backward pass.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


def rank_memory(
    settings: Settings, architecture: Architecture, stage: int, rows: StreamRows, num_streams: int
) -> RankMemory:
    """Of a rank whose streams are all alike.

    Args:
        settings: of the run.
        architecture: of the model.
        stage: pipeline rank.
        rows: of every stream.
        num_streams: of a step on a data-parallel rank.
    """
    model = settings.model
    parameters = rank_parameters(architecture, model, stage)
    state = state_bytes(settings, parameters)
    activations = activations_peak(settings, architecture, stage, rows, num_streams)
    messages = StreamTraffic(settings, architecture, rows)
    sent = [sent.size for part in range(len(parameters)) for sent in messages.of_part(stage, part)]
    buffers = 2 * max(sent, default=0) + _backward_bytes(settings, architecture, rows)
    return RankMemory(stage, state.weights, state.gradients, state.optimizer, activations, buffers)


def activations_peak(
    settings: Settings, architecture: Architecture, stage: int, rows: StreamRows, num_streams: int
) -> int:
    """Most bytes of activations of a rank at any time of a step."""
    model = settings.model
    stages, parts = model.pipeline_model_parallel_size, model.virtual_pipeline_model_parallel_size or 1
    size, on_gpu = activation_bytes(settings), settings.trainer.accelerator != "cpu"
    units = [part_units(architecture, model, stage, part, rows, size, on_gpu) for part in range(parts)]
    kept, in_backward = zip(*map(part_bytes, units), strict=True)
    enough = min(num_streams, 3 * stages)  # later rounds have no more in flight than the first
    return peak_bytes(rank_schedule(stages, stage, parts, enough), kept, in_backward)


def _backward_bytes(settings: Settings, architecture: Architecture, rows: StreamRows) -> int:
    """Gradients of the MLP's two inner tensors and of its input."""
    model = settings.model
    held = rows.held(model)
    widths = architecture.topk * architecture.ffn_size * architecture.num_ffn_matrices
    inner = held * widths // model.tensor_model_parallel_size
    return activation_bytes(settings) * (inner + held // sequence_ranks(model) * architecture.hidden_size)

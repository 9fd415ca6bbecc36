"""Memory of a rank by part."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.model import Settings
from nemo_bt.planning.activations import StreamRows, part_bytes, part_units, sequence_ranks
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.schedule import peak_bytes, rank_schedule
from nemo_bt.planning.state import activation_bytes, state_bytes, step_bytes
from nemo_bt.planning.stream_traffic import StreamTraffic
from nemo_bt.pretrained.architecture import Architecture


@dataclass(frozen=True)
class RankMemory:
    """Memory of one rank, in bytes.

    Args:
        stage: pipeline rank.
        optimizer: moments, and main copies of weights.
        activations: the most of them at any time.
        buffers: the largest message, in and out, and what the largest layer computes in its backward pass.
        step: fp32 copies of moments while the optimizer steps; there are no activations and buffers then.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    step: int

    @property
    def total(self) -> int:
        """The most at any time: in a backward pass, or while the optimizer steps."""
        return self.weights + self.gradients + self.optimizer + max(self.activations + self.buffers, self.step)


def rank_memory(
    settings: Settings, architecture: Architecture, stage: int, rows: StreamRows, num_streams: int
) -> RankMemory:
    """Count the memory of a rank whose streams are all alike.

    Args:
        rows: rows of every stream.
        num_streams: streams of a step on a data-parallel rank.
    """
    model = settings.model
    parameters = rank_parameters(architecture, model, stage)
    state = state_bytes(settings, parameters)
    activations = activations_peak(settings, architecture, stage, rows, num_streams)
    messages = StreamTraffic(settings, architecture, rows)
    sent = [sent.size for part in range(len(parameters)) for sent in messages.of_part(stage, part)]
    buffers = 2 * max(sent, default=0) + _backward_bytes(settings, architecture, rows)
    step = step_bytes(settings, parameters)
    return RankMemory(stage, state.weights, state.gradients, state.optimizer, activations, buffers, step)


def activations_peak(
    settings: Settings, architecture: Architecture, stage: int, rows: StreamRows, num_streams: int
) -> int:
    """Count the most bytes of activations that a rank has at any time of a step."""
    model = settings.model
    stages = model.pipeline_model_parallel_size
    parts = model.virtual_pipeline_model_parallel_size or 1
    size = activation_bytes(settings)
    on_gpu = settings.trainer.accelerator != "cpu"
    units = [part_units(architecture, model, stage, part, rows, size, on_gpu) for part in range(parts)]
    kept, in_backward = zip(*map(part_bytes, units), strict=True)
    enough = min(num_streams, 3 * stages)  # later rounds have no more in flight than the first
    return peak_bytes(rank_schedule(stages, stage, parts, enough), kept, in_backward)


def _backward_bytes(settings: Settings, architecture: Architecture, rows: StreamRows) -> int:
    """Count the gradients of the MLP's two inner tensors and of its input."""
    model = settings.model
    held = rows.held(model)
    widths = architecture.topk * architecture.ffn_size * architecture.num_ffn_matrices
    inner = held * widths // model.tensor_model_parallel_size
    return activation_bytes(settings) * (inner + held // sequence_ranks(model) * architecture.hidden_size)

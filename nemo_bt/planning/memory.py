"""Memory of a rank by part."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.model import Settings
from nemo_bt.planning.activations import part_bytes, part_most, part_units
from nemo_bt.planning.buffers import activation_bytes, on_gpu
from nemo_bt.planning.engine import weight_copies, workspaces
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.rows import StreamRows, sequence_ranks
from nemo_bt.planning.schedule import peak_bytes, rank_schedule
from nemo_bt.planning.state import state_bytes, step_bytes
from nemo_bt.pretrained.architecture import Architecture

GIB = 2**30
_SHOWN = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "copies": "copies in FP8",
    "workspaces": "workspaces",
    "activations": "activations",
    "buffers": "buffers",
}
_UNDER_WAY = 4
"""Messages that an interleaved pipeline has at once: the next input and gradient come in, the last ones go out."""


@dataclass(frozen=True)
class RankMemory:
    """Memory of one rank, in bytes.

    Args:
        stage: pipeline rank.
        optimizer: moments, and main copies of weights.
        copies: weights in FP8, beside those in bf16.
        workspaces: what Transformer Engine keeps else; see `nemo_bt.planning.engine`.
        activations: the most of them at any time.
        buffers: what gradients and messages of the backward pass add to that.
        step: fp32 copies of moments while the optimizer steps; there are no activations and buffers then.
        host: the optimizer's in the memory of the host, which is not part of the total.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    copies: int
    workspaces: int
    activations: int
    buffers: int
    step: int
    host: int

    @property
    def total(self) -> int:
        """The most at any time: in a backward pass, or while the optimizer steps."""
        always = self.weights + self.gradients + self.optimizer + self.copies + self.workspaces
        return always + max(self.activations + self.buffers, self.step)

    @property
    def parts(self) -> str:
        """Name each part of a backward pass that has bytes, in GiB, and what lies on the host."""
        shown = [f"{text} {getattr(self, name) / GIB:.3g}" for name, text in _SHOWN.items() if getattr(self, name)]
        return ", ".join(shown) + (f"; on the host {self.host / GIB:.3g}" if self.host else "")


def rank_memory(
    settings: Settings, architecture: Architecture, stage: int, rows: StreamRows, num_streams: int, data_rank: int = 0
) -> RankMemory:
    """Count the memory of a rank whose streams are all alike.

    Args:
        rows: rows of every stream.
        num_streams: streams of a step on a data-parallel rank.
        data_rank: number of the rank among data- and context-parallel ranks, which decides what it offloads.
    """
    parameters = rank_parameters(architecture, settings.model, stage, on_gpu(settings))
    state = state_bytes(settings, parameters, data_rank)
    activations, most = _peaks(settings, architecture, stage, rows, num_streams)
    return RankMemory(
        stage,
        state.weights,
        state.gradients,
        state.optimizer,
        copies=weight_copies(architecture, settings.model, stage),
        workspaces=workspaces(settings, parameters) if on_gpu(settings) else 0,
        activations=activations,
        buffers=most - activations,
        step=step_bytes(settings, parameters, data_rank),
        host=state.host,
    )


def activations_peak(
    settings: Settings, architecture: Architecture, stage: int, rows: StreamRows, num_streams: int
) -> int:
    """Count the most bytes of activations that a rank has at any time of a step."""
    return _peaks(settings, architecture, stage, rows, num_streams)[0]


def _peaks(
    settings: Settings, architecture: Architecture, stage: int, rows: StreamRows, num_streams: int
) -> tuple[int, int]:
    """Count the most bytes of activations, without and with what backward passes compute."""
    model = settings.model
    stages = model.pipeline_model_parallel_size
    parts = model.virtual_pipeline_model_parallel_size or 1
    size = activation_bytes(settings)
    units = [part_units(architecture, model, stage, part, rows, size, on_gpu(settings)) for part in range(parts)]
    kept, in_backward = zip(*map(part_bytes, units), strict=True)
    enough = min(num_streams, 3 * stages)  # later rounds have no more in flight than the first
    schedule = rank_schedule(stages, stage, parts, enough)
    between = size * rows.held(model) // sequence_ranks(model) * architecture.hidden_size
    under_way = _UNDER_WAY * between if parts > 1 else 0
    most = [part_most(one) + under_way for one in units]
    return peak_bytes(schedule, kept, in_backward), peak_bytes(schedule, kept, most)

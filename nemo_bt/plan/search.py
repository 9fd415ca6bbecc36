"""Every layout of a search, with its memory and time, or why it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from nemo_bt.errors import UserError
from nemo_bt.layout import check_layout
from nemo_bt.plan.activations import StreamRows
from nemo_bt.plan.memory import RankMemory, activations_peak, rank_memory
from nemo_bt.plan.parameters import rank_parameters
from nemo_bt.plan.settings import PlanRun
from nemo_bt.plan.shape import ModelShape
from nemo_bt.plan.streams import Pairs, TypicalStep, typical_step
from nemo_bt.plan.time import StepTime, stage_time
from nemo_bt.plan.traffic import bytes_sent, group_sizes, step_traffic
from nemo_bt.settings import ModelSettings

GIB = 2**30
PERCENTILES = (50, 90, 99)
LAYOUT = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "sequence_parallel",
    "activations_checkpoint_granularity",
    "activations_checkpoint_method",
    "activations_checkpoint_num_layers",
)
"""Keys of `model` that a search decides."""


@dataclass(frozen=True)
class Planned:
    """A layout that fits.

    Args:
        model: settings with the layout.
        data_parallel_size: replicas.
        memory: of the fullest rank, with streams as long as they can be.
        activations_at: bytes of that rank's activations at percentiles of the lengths of streams.
        time: of a step.
        sent: bytes that the busiest rank sends in a step, by operation and group.
        streams: of a step on a data-parallel rank, on average.
        tokens_per_step: real ones.
        pairs_per_epoch: of the data.
        world_size: devices.
    """

    model: ModelSettings
    data_parallel_size: int
    memory: RankMemory
    activations_at: dict[int, int]
    time: StepTime
    sent: dict[str, float]
    streams: float
    tokens_per_step: float
    pairs_per_epoch: int
    world_size: int

    @property
    def tokens_per_s(self) -> float:
        """Of the whole job."""
        return self.tokens_per_step / self.time.total

    @property
    def hours(self) -> float:
        """Of an epoch."""
        return self.pairs_per_epoch / self.model.global_batch_size * self.time.total / 3600


@dataclass(frozen=True)
class Rejected:
    """A layout that cannot be used.

    Args:
        model: settings with the layout.
        reason: the equation that fails, or what does not fit.
        needed_bytes: on the fullest rank, of a layout that is only too big.
    """

    model: ModelSettings
    reason: str
    needed_bytes: int | None = None


def search(run: PlanRun, shape: ModelShape, sizes: dict[str, Any], pairs: Pairs) -> list[Planned | Rejected]:
    """Try every layout.

    Args:
        run: settings.
        shape: of the model.
        sizes: of the model, from `nemo_bt.architecture.megatron_fields`.
        pairs: of the data.
    """
    seen: dict[tuple[Any, ...], TypicalStep] = {}
    has_experts = bool(shape.num_experts)
    return [_tried(replace(run, model=model), shape, sizes, pairs, seen) for model in layouts(run, has_experts)]


def layouts(run: PlanRun, has_experts: bool) -> Iterator[ModelSettings]:
    """All combinations of what is to be tried.

    Sequence parallelism comes with tensor parallelism. Without a pipeline nothing is interleaved, and without experts
    none are shared out: such combinations are no layouts.
    """
    plan = run.plan
    for tp, pp, vpp, cp, ep, number in product(
        plan.tensor_model_parallel_size,
        plan.pipeline_model_parallel_size,
        plan.virtual_pipeline_model_parallel_size,
        plan.context_parallel_size,
        plan.expert_model_parallel_size,
        plan.recompute_layers,
    ):
        if (pp == 1 and vpp is not None) or (ep > 1 and not has_experts):
            continue
        yield replace(
            run.model,
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            virtual_pipeline_model_parallel_size=vpp,
            context_parallel_size=cp,
            expert_model_parallel_size=ep,
            sequence_parallel=tp > 1,
            activations_checkpoint_granularity="full" if number else None,
            activations_checkpoint_method="uniform" if number else None,
            activations_checkpoint_num_layers=number or None,
        )


def _tried(
    run: PlanRun, shape: ModelShape, sizes: dict[str, Any], pairs: Pairs, seen: dict[tuple[Any, ...], TypicalStep]
) -> Planned | Rejected:
    model = run.model
    try:
        check_layout(run, sizes)
    except UserError as error:
        return Rejected(model, str(error))
    key = tuple(getattr(model, name) for name in LAYOUT[:4])  # what streams depend on
    if key not in seen:
        seen[key] = typical_step(run, pairs, run.plan.num_steps, shape.hidden_size)
    step = seen[key]
    stages = sorted({0, min(1, model.pipeline_model_parallel_size - 1), model.pipeline_model_parallel_size - 1})
    longest = _rows(run, model.data.tokens_per_micro_batch, step.most_continuations)
    memory = max(
        (rank_memory(run, shape, stage, longest, step.num_streams) for stage in stages), key=lambda rank: rank.total
    )
    room = run.cluster.memory_bytes - run.cluster.reserved_bytes
    if memory.total > room:
        return Rejected(model, _too_much(memory, room), memory.total)
    return _planned(run, shape, pairs, step, memory, stages)


def _planned(
    run: PlanRun, shape: ModelShape, pairs: Pairs, step: TypicalStep, memory: RankMemory, stages: list[int]
) -> Planned:
    at = {
        percentile: activations_peak(
            run,
            shape,
            memory.stage,
            _rows(run, int(np.percentile(step.stream_tokens, percentile)), step.load.rows.continuations),
            step.num_streams,
        )
        for percentile in PERCENTILES
    }
    parameters = {stage: rank_parameters(shape, run.model, stage) for stage in stages}
    times = [
        stage_time(run, shape, run.cluster, stage, parameters[stage], step.load, step.num_streams) for stage in stages
    ]
    sent = [_sent(run, shape, stage, parameters[stage], step) for stage in stages]
    return Planned(
        model=run.model,
        data_parallel_size=run.data_parallel_size,
        memory=memory,
        activations_at=at,
        time=max(times, key=lambda time: time.total),
        sent=max(sent, key=lambda kinds: sum(kinds.values())),
        streams=step.num_streams,
        tokens_per_step=step.tokens_per_step,
        pairs_per_epoch=pairs.num_pairs,
        world_size=run.world_size,
    )


def _sent(run: PlanRun, shape: ModelShape, stage: int, parameters: Any, step: TypicalStep) -> dict[str, float]:
    sizes = group_sizes(run)
    at_the_end = step_traffic(run, shape, parameters, stage, [])
    of_a_stream = step_traffic(run, shape, parameters, stage, [step.load.rows]) - at_the_end
    kinds: dict[str, float] = {}
    for traffic, times in ((of_a_stream, step.num_streams), (at_the_end, 1)):
        for sent, count in traffic.items():
            kind = f"{sent.operation} {sent.group}"
            kinds[kind] = kinds.get(kind, 0.0) + times * count * bytes_sent(sent, sizes[sent.group])
    return {kind: size for kind, size in kinds.items() if size}


def _rows(run: PlanRun, tokens: int, continuations: int) -> StreamRows:
    """A stream of so many tokens, filled up so that ranks share it."""
    multiple = run.model.context_parallel_size * run.model.tensor_model_parallel_size
    filled = -(-tokens // multiple) * multiple
    return StreamRows(filled, continuations, -(-continuations // run.model.context_parallel_size))


def _too_much(memory: RankMemory, room: float) -> str:
    names = ("weights", "gradients", "optimizer", "activations", "buffers")
    parts = ", ".join(f"{name} {getattr(memory, name) / GIB:.1f}" for name in names)
    return f"a rank of stage {memory.stage} needs {memory.total / GIB:.1f} GiB of {room / GIB:.1f}: {parts}."

"""The search over layouts: each gets its memory and time, or the reason why it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from nemo_bt.config.model import ModelSettings, Settings
from nemo_bt.config.plan import PlanRun
from nemo_bt.errors import UserError
from nemo_bt.planning.buffers import on_gpu
from nemo_bt.planning.checks import DECIDED
from nemo_bt.planning.memory import GIB, RankMemory, activations_peak, rank_memory
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.rows import StreamRows
from nemo_bt.planning.streams import Pairs, Step, StreamLoad, mean_load, slowest_rank, steps_of
from nemo_bt.planning.time import StepTime, step_time
from nemo_bt.planning.traffic import bytes_sent, group_sizes, step_traffic
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.training.layout_checks import check_layout
from nemo_bt.training.steps.plan import step_rules

PERCENTILES = (50, 90, 99)
LAYOUT = (
    *DECIDED,
    "sequence_parallel",
    "activations_checkpoint_granularity",
    "activations_checkpoint_method",
    "activations_checkpoint_num_layers",
)
"""Keys of `model` that a search decides."""


@dataclass(frozen=True)
class Planned:
    """A layout that fits, in the settings `model`.

    Args:
        memory: memory of the fullest rank, with streams as long as they can be.
        activations_at: bytes of that rank's activations at percentiles of the lengths of streams.
        time: seconds of an average step.
        sent: bytes that the busiest rank sends in an average step, by operation and group.
        streams: their number in an average step on a data-parallel rank.
        tokens_per_step: real tokens, without padding.
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
        """Real tokens that the whole job trains on in a second."""
        return self.tokens_per_step / self.time.total

    @property
    def hours(self) -> float:
        """Hours of an epoch."""
        return self.pairs_per_epoch / self.model.global_batch_size * self.time.total / 3600


@dataclass(frozen=True)
class Rejected:
    """A layout, in the settings `model`, that cannot be used.

    Args:
        reason: the equation that fails, or what does not fit.
        needed_bytes: memory of the fullest rank, where the layout is only too big.
    """

    model: ModelSettings
    reason: str
    needed_bytes: int | None = None


def search(run: PlanRun, architecture: Architecture, pairs: Pairs) -> list[Planned | Rejected]:
    """Try every layout."""
    seen: dict[tuple[int, ...], list[Step]] = {}
    models = layouts(run, has_experts=architecture.experts is not None)
    return [_tried(replace(run, model=model), architecture, pairs, seen) for model in models]


def layouts(run: PlanRun, has_experts: bool) -> Iterator[ModelSettings]:
    """Combine all values that are to be tried.

    Sequence parallelism comes with tensor parallelism. Without a pipeline nothing is interleaved, and without experts
    none are shared out: such combinations are no layouts.
    """
    tried = [getattr(run.plan, name) for name in DECIDED]
    for *sizes, number in product(*tried, run.plan.recompute_layers):
        tp, pp, vpp, _, ep = sizes
        if (pp == 1 and vpp is not None) or (ep > 1 and not has_experts):
            continue
        yield replace(
            run.model,
            **dict(zip(DECIDED, sizes, strict=True)),
            sequence_parallel=tp > 1,
            activations_checkpoint_granularity="full" if number else None,
            activations_checkpoint_method="uniform" if number else None,
            activations_checkpoint_num_layers=number or None,
        )


def _tried(
    run: PlanRun, architecture: Architecture, pairs: Pairs, seen: dict[tuple[int, ...], list[Step]]
) -> Planned | Rejected:
    model = run.model
    try:
        check_layout(run, architecture)
    except UserError as error:
        return Rejected(model, str(error))
    key = (run.data_parallel_size, *step_rules(run))
    if key not in seen:
        seen[key] = steps_of(run, pairs, run.plan.num_steps, architecture.hidden_size)
    steps = seen[key]
    loads = _loads(steps)
    num_streams = _most_streams(steps)
    stages = _stages(model)
    room = run.cluster.memory_bytes - run.cluster.reserved_bytes
    longest = max(load.rows.tokens for load in loads)
    full, found = (
        fullest_rank(run, architecture, steps, tokens) for tokens in (model.data.tokens_per_micro_batch, longest)
    )
    if full.total > room:
        return Rejected(model, _too_much(full, room) + _would_fit(found, longest, room, len(steps)), full.total)
    lengths = np.percentile([load.rows.tokens for load in loads], PERCENTILES)
    at = {
        percentile: activations_peak(run, architecture, full.stage, scaled(loads, int(tokens), run), num_streams)
        for percentile, tokens in zip(PERCENTILES, lengths, strict=True)
    }
    parameters = {stage: rank_parameters(architecture, model, stage, on_gpu(run)) for stage in stages}
    return Planned(
        model=model,
        data_parallel_size=run.data_parallel_size,
        memory=full,
        activations_at=at,
        time=step_time(run, architecture, run.cluster, parameters, steps),
        sent=max(
            (_sent(run, architecture, stage, parameters[stage], steps) for stage in stages),
            key=lambda kinds: sum(kinds.values()),
        ),
        streams=sum(len(step[0]) for step in steps) / len(steps),
        tokens_per_step=sum(load.num_tokens for load in loads) / len(steps),
        pairs_per_epoch=pairs.num_pairs,
        world_size=run.world_size,
    )


def scaled(loads: Sequence[StreamLoad], tokens: int, settings: Settings) -> StreamRows:
    """Make a stream of so many tokens like the densest of `loads`, and fill it up so that ranks share it."""
    multiple = step_rules(settings).tokens_multiple_of
    continuations, copied = (
        -(-tokens * max(getattr(load.rows, name) / load.rows.tokens for load in loads) // 1)
        for name in ("continuations", "copied")
    )
    scored = -(-int(continuations) // settings.model.context_parallel_size)
    return StreamRows(-(-tokens // multiple) * multiple, int(continuations), scored, int(copied))


def fullest_rank(
    settings: Settings, architecture: Architecture, steps: Sequence[Step], tokens: int, stages: Sequence[int] = ()
) -> RankMemory:
    """Count the memory of the rank that needs most of it.

    Args:
        steps: say how dense streams are, and how many there are.
        tokens: length of every stream.
        stages: pipeline ranks to choose from; none is all.
    """
    rows = scaled(_loads(steps), tokens, settings)
    ranks = [
        rank_memory(settings, architecture, stage, rows, _most_streams(steps), data_rank)
        for stage in stages or _stages(settings.model)
        for data_rank in _data_ranks(settings)
    ]
    return max(ranks, key=lambda rank: rank.total)


def _data_ranks(settings: Settings) -> range:
    """List the data-parallel ranks that differ: they do where each offloads whole parameters of its share."""
    optim = settings.model.optim
    differ = optim.optimizer_cpu_offload and optim.optimizer_offload_fraction < 1
    return range(settings.data_parallel_size * settings.model.context_parallel_size if differ else 1)


def _stages(model: ModelSettings) -> list[int]:
    """List the pipeline ranks that differ: the first, one in between, the last."""
    last = model.pipeline_model_parallel_size - 1
    return sorted({0, min(1, last), last})


def _loads(steps: Sequence[Step]) -> list[StreamLoad]:
    return [load for step in steps for streams in step for load in streams]


def _most_streams(steps: Sequence[Step]) -> int:
    return max(len(streams) for step in steps for streams in step)


def _sent(
    run: PlanRun, architecture: Architecture, stage: int, parameters: Any, steps: Sequence[Step]
) -> dict[str, float]:
    """Count the bytes of an average step on the data-parallel rank that has most to do."""
    sizes = group_sizes(run)
    at_the_end = step_traffic(run, architecture, parameters, stage, [])
    kinds: dict[str, float] = {}
    for step in steps:
        streams = slowest_rank(step, architecture.hidden_size)
        of_a_stream = step_traffic(run, architecture, parameters, stage, [mean_load(streams).rows]) - at_the_end
        for traffic, times in ((of_a_stream, len(streams)), (at_the_end, 1)):
            for sent, count in traffic.items():
                kind = f"{sent.operation} {sent.group}"
                size = times * count * bytes_sent(sent, sizes[sent.group]) / len(steps)
                kinds[kind] = kinds.get(kind, 0.0) + size
    return {kind: size for kind, size in kinds.items() if size}


def _too_much(memory: RankMemory, room: float) -> str:
    needed = f"{memory.total / GIB:.1f} GiB of {room / GIB:.1f}"
    return f"a rank of stage {memory.stage} needs {needed}: {memory.parts}."


def _would_fit(memory: RankMemory, longest: int, room: float, num_steps: int) -> str:
    """Say what a user can do about streams that are longer than the data ever makes them."""
    if memory.total > room:
        return ""
    return (
        f" The longest stream of {num_steps} steps has {longest} tokens and would fit: set model.data."
        "tokens_per_micro_batch near it."
    )

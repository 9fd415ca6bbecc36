"""What a run recorded (`tests.support.recorder`), beside what `nemo_bt.planning` says of its layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nemo_bt.batching.context_shards import context_shard
from nemo_bt.config.load import load_settings
from nemo_bt.config.model import Settings
from nemo_bt.metrics import NUM_SUMS
from nemo_bt.model.attention.segments import scored_here
from nemo_bt.planning.activations import part_bytes, part_units
from nemo_bt.planning.buffers import activation_bytes
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.rows import StreamRows
from nemo_bt.planning.schedule import Pass, peak_bytes, rank_schedule
from nemo_bt.planning.state import StateBytes, state_bytes
from nemo_bt.planning.stream_traffic import Sent
from nemo_bt.planning.traffic import step_traffic
from nemo_bt.pretrained.resolve import find_pretrained

Messages = Counter[tuple[str, tuple[int, ...], int]]
"""How many of an operation, over these ranks, of so many bytes."""
PEER_TO_PEER = ("send", "receive")
LOGGED_BYTES = 8 * NUM_SUMS
"""Of the line of metrics, which the planner leaves out: sums in fp64 for each source of data."""


@dataclass(frozen=True)
class OneRank:
    """Of one rank of a run: state, and of its second step activations at their most, passes and messages.

    Args:
        pipeline: ranks of its pipeline, in the order of the stages.
    """

    pipeline: tuple[int, ...]
    state: StateBytes
    activations: int
    passes: list[Pass]
    messages: Messages


def settings_of(log_dir: Path) -> Settings:
    return load_settings("config", [], str(log_dir))


@cache
def found_and_planned(log_dir: Path) -> list[tuple[OneRank, OneRank]]:
    """Of each rank."""
    settings = settings_of(log_dir)
    saved = find_pretrained(str(next((log_dir / "checkpoints").glob("*.nemo"))))
    architecture, model = saved.architecture, settings.model
    parts = model.virtual_pipeline_model_parallel_size or 1
    both = []
    for rank in range(settings.world_size):
        record = json.loads((log_dir / f"state-{rank}.json").read_text())
        step, stage = record["step"], record["pipeline_rank"]
        assert step["kept_after_the_step"] == 0
        streams = [_rows(stream, step["groups"]["cp"], rank) for stream in step["streams"]]
        parameters = rank_parameters(architecture, model, stage)
        schedule = rank_schedule(model.pipeline_model_parallel_size, stage, parts, len(streams))
        dtype_bytes = activation_bytes(settings)
        peak = max(
            peak_bytes(schedule[:2] if model.pipeline_model_parallel_size == 1 else schedule, *zip(*kept, strict=True))
            for kept in (
                [part_bytes(part_units(architecture, model, stage, part, rows, dtype_bytes)) for part in range(parts)]
                for rows in streams
            )
        )
        traffic = step_traffic(settings, architecture, parameters, stage, streams)
        pipeline = tuple(step["groups"]["pp"])
        planned = OneRank(
            pipeline,
            state_bytes(settings, parameters, record["data_rank"]),
            peak,
            schedule,
            _messages(traffic, step["groups"], rank),
        )
        state = StateBytes(record["weights"], record["gradients"], record["optimizer"])
        passes = [Pass(*one) for one in step["passes"]]
        both.append((OneRank(pipeline, state, step["activations"], passes, _sent(step, settings)), planned))
    return both


def _rows(stream: Any, context_ranks: list[int], rank: int) -> StreamRows:
    tokens, segments = stream
    segments_C5 = torch.tensor(segments, dtype=torch.int32).reshape(-1, 5)
    shard = context_shard(tokens, len(context_ranks), context_ranks.index(rank))
    return StreamRows(tokens, len(segments), len(scored_here(segments_C5, shard)[0]))


def _sent(step: dict[str, Any], settings: Settings) -> Messages:
    """Without what stays on the rank, and the line of metrics."""
    counts: Messages = Counter()
    for operation, ranks, size, count in step["messages"]:
        if len(ranks) > 1:
            counts[operation, () if operation in PEER_TO_PEER else tuple(ranks), size] += count
    if settings.world_size > 1:
        counts["all_reduce", tuple(range(settings.world_size)), LOGGED_BYTES] -= 1
    assert min(counts.values(), default=0) >= 0
    return +counts


def _messages(traffic: Counter[Sent], groups: dict[str, list[int]], rank: int) -> Messages:
    counts: Messages = Counter()
    for sent, count in traffic.items():
        ranks = () if sent.operation in PEER_TO_PEER else tuple(groups[sent.group])
        counts[sent.operation, ranks, sent.size] += count
    return counts


def by_operation_and_ranks(one: OneRank) -> Counter[tuple[str, tuple[int, ...]]]:
    """Messages whatever their size."""
    counts: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for (operation, ranks, _), count in one.messages.items():
        counts[operation, ranks] += count
    return counts


def activations_difference(ranks: Sequence[tuple[OneRank, OneRank]], on_average: bool) -> float:
    """Relative difference of the planned bytes from those found: of the worst rank, or of the average rank."""
    found, planned = ([one.activations for one in side] for side in zip(*ranks, strict=True))
    if on_average:
        found, planned = [sum(found)], [sum(planned)]
    return max(abs(p / f - 1) for p, f in zip(planned, found, strict=True))


def bubble_of(passes: Sequence[Sequence[Pass]]) -> float:
    """Share of a step that the ranks of a pipeline wait, where a forward pass takes 1 and a backward pass 2.

    Played through: a pass starts when its rank is free and the pass that it waits for is done.

    Args:
        passes: of each stage in the order in which it did them.
    """
    stages, parts = len(passes), 1 + max(one.part for one in passes[0])
    ends: dict[tuple[bool, int, int, int], int] = {}
    free, done, number = [0] * stages, [0] * stages, [Counter[Pass]() for _ in passes]
    while any(done[stage] < len(passes[stage]) for stage in range(stages)):
        before = list(done)
        for stage in range(stages):
            while done[stage] < len(passes[stage]):
                one = passes[stage][done[stage]]
                key = (one.is_forward, stage, one.part, number[stage][one])
                awaited = _awaited(key, stages, parts)
                if awaited is not None and awaited not in ends:
                    break
                start = max(free[stage], ends[awaited] if awaited else 0)
                free[stage] = ends[key] = start + (1 if one.is_forward else 2)
                number[stage][one] += 1
                done[stage] += 1
        assert done != before, "the ranks wait for each other"
    return 1 - sum(3 * len(one) / 2 for one in passes) / (stages * max(free))


def _awaited(key: tuple[bool, int, int, int], stages: int, parts: int) -> tuple[bool, int, int, int] | None:
    is_forward, stage, part, number = key
    if is_forward:
        if stage:
            return True, stage - 1, part, number
        return (True, stages - 1, part - 1, number) if part else None
    if stage < stages - 1:
        return False, stage + 1, part, number
    return (False, 0, part + 1, number) if part < parts - 1 else (True, stage, part, number)

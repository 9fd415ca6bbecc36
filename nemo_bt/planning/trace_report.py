"""What nemo-bt plan --trace shows of a traced rank: memory, waits, messages, FLOPs, and what ended it; or JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from nemo_bt.observability.terminal import Terminal
from nemo_bt.phantom.record import Failure, Section
from nemo_bt.planning.memory import GIB, RankMemory
from nemo_bt.planning.report import name
from nemo_bt.planning.trace import TracedRank

_PARTS = ("weights", "gradients", "optimizer")
_MIB = 2**20
_TERA = 1e12


def show_trace(traced: TracedRank, num_rows: int, terminal: Terminal) -> None:
    """Print the tables, of `num_rows` rows each."""
    record = traced.record
    step = (record.steps or record.sections)[-1]
    terminal.facts([*_facts(traced, step).items()])
    terminal.line("\nMemory at the peak of the step, in GiB:")
    terminal.table(["held by", "traced", "planned"], _memory(step, traced.planned))
    terminal.line("Peak of each part of the run, in GiB:")
    names = [section.name for section in record.sections]
    phases = list(dict.fromkeys(phase for section in record.sections for phase in section.peaks))
    terminal.table(
        ["phase", *(f"step {one}" if one.isdecimal() else one for one in names)],
        [[phase, *(_gib(section.peaks.get(phase, 0)) for section in record.sections)] for phase in phases],
    )
    terminal.line("The largest at the peak:")
    terminal.table(
        ["made by", "held by", "number", "shape", "dtype", "GiB", "where"],
        [
            [one.operation, one.holder, str(one.count), str([*one.shape]), one.dtype, _gib(one.size), one.place]
            for one in step.held[:num_rows]
        ],
    )
    terminal.line("What the host waits for in a step, logging aside:")
    waits = sorted(step.waits, key=lambda one: -one.count)
    terminal.table(
        ["kind", "phase", "times", "where"],
        [[one.kind, one.phase, str(one.count), one.places[0]] for one in waits[:num_rows]],
    )
    messages = _messages(step)
    if messages:
        terminal.line("Messages of a step, as tensors that all ranks of the group have or share:")
        terminal.table(["operation", "group", "ranks", "times", "MiB each", "GiB"], messages[:num_rows])
    terminal.line("Matrix products and attention of a step, in TFLOP:")
    terminal.table(["phase", "TFLOP"], [[phase, f"{flops / _TERA:.4g}"] for phase, flops in step.flops.items()])


def verdict(traced: TracedRank) -> tuple[int, str]:
    """Give the exit status and what it stands for, in a line: 0 fits, 2 does not, 1 where the run ends by an error."""
    record, room = traced.record, traced.room
    if record.failure:
        return 1, _failed(record.failure)
    rank = f"rank {traced.rank}"
    if record.peak > room:
        return 2, (
            f"{rank} needs {_gib(record.peak)} GiB of {_gib(room)}. Give more tensor or pipeline parallelism, the "
            "distributed optimizer, model.activations_checkpoint_granularity=full, or fewer model.data."
            "tokens_per_micro_batch; nemo-bt plan without --trace finds layouts that fit."
        )
    full = traced.planned_full
    if full.total > room:
        return 2, (
            f"{rank} needs {_gib(record.peak)} GiB of {_gib(room)} in these steps, and {_gib(full.total)} as planned "
            "where a stream has all of model.data.tokens_per_micro_batch: set less."
        )
    return 0, f"{rank} fits: {_gib(record.peak)} GiB of {_gib(room)}."


def trace_as_json(traced: TracedRank) -> str:
    """Write everything as JSON; sizes are in bytes."""
    status, told = verdict(traced)
    planned = {"planned": traced.planned, "planned_full": traced.planned_full}
    return json.dumps(
        {
            "verdict": told,
            "status": status,
            "rank": traced.rank,
            "world_size": traced.run.world_size,
            "stage": traced.stage,
            "room_bytes": traced.room,
            **{key: asdict(memory) | {"total": memory.total} for key, memory in planned.items()},
            "record": asdict(traced.record),
        },
        allow_nan=False,
    )


def _facts(traced: TracedRank, step: Section) -> dict[str, str]:
    run, record = traced.run, traced.record
    full = traced.planned_full
    streams = Counter(step.streams)
    versions = ", ".join(f"{package} {version}" for package, version in record.versions.items())
    return {
        "layout": f"{name(run.model)} DP{run.data_parallel_size}",
        "rank": f"{traced.rank} of {run.world_size} x {run.cluster.name}, pipeline stage {traced.stage}",
        "streams": ", ".join(f"{count} of {tokens:,} tokens" for tokens, count in streams.items()) or "none",
        "peak of a step": f"{_gib(step.peak)} GiB of {_gib(traced.room)}",
        "planned": f"{_gib(traced.planned.total)} GiB",
        "planned with full streams": f"{_gib(full.total)} GiB",
        "peak before the first step": f"{_gib(record.build.peak)} GiB",
        "kernels": f"{sum(step.launches.values()):,} a step",
        "waits": f"{sum(one.count for one in step.waits):,} a step",
        "FLOPs": f"{sum(step.flops.values()) / _TERA:.4g} TFLOP a step",
        "traced": versions,
    }


def _memory(step: Section, planned: RankMemory) -> list[list[str]]:
    """List what holds memory at the peak; what is neither weight nor state is compared as a whole."""
    rest: Mapping[str, int] = {
        holder: size for holder, size in step.holders.items() if holder not in _PARTS and size > _MIB
    }
    rows = [[part, _gib(step.holders.get(part, 0)), _gib(getattr(planned, part))] for part in _PARTS]
    others = _gib(planned.total - sum(getattr(planned, part) for part in _PARTS))
    rows.append(["all others", _gib(step.peak - sum(step.holders.get(part, 0) for part in _PARTS)), others])
    rows += [[f"  {holder}", _gib(size), ""] for holder, size in rest.items()]
    return [*rows, ["together", _gib(step.peak), _gib(planned.total)]]


def _messages(step: Section) -> list[list[str]]:
    ordered = sorted((one for one in step.messages if one.ranks > 1), key=lambda one: -one.size * one.count)
    return [
        [one.operation, one.group, str(one.ranks), str(one.count), f"{one.size / _MIB:.3g}", _gib(one.size * one.count)]
        for one in ordered
    ]


def _failed(failure: Failure) -> str:
    when = "before the first step" if failure.phase == "build" else f"in {failure.phase}"
    where = "".join(f"\n  {place}" for place in failure.places)
    return f"the run would end {when}: {failure.kind}: {failure.message}{where}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"

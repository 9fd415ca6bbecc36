"""What nemo-bt plan shows: a table of layouts that fit, the fastest first, and why the others do not; or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from nemo_bt.config.model import ModelSettings
from nemo_bt.config.parallelism import recomputation
from nemo_bt.config.plan import PlanRun
from nemo_bt.observability.terminal import Terminal
from nemo_bt.planning.failures import outlook, told_failures
from nemo_bt.planning.memory import GIB
from nemo_bt.planning.search import LAYOUT, Planned, Rejected

_OFFLOADED = ", offloaded: seconds leave out what the host does"
_NUMBER = re.compile(r"\d[\d.,]*")


def show(run: PlanRun, results: Sequence[Planned | Rejected], num_rows: int, terminal: Terminal) -> None:
    """Print the tables, of `num_rows` layouts each."""
    fits = sorted_by_time(results)
    rejected = [one for one in results if isinstance(one, Rejected)]
    room = (run.cluster.memory_bytes - run.cluster.reserved_bytes) / GIB
    facts = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in _facts(run).items()}
    terminal.facts(list(facts.items()))
    terminal.line(
        f"Memory in GiB of the fullest rank, of {room:.1f}, with streams of {run.model.data.tokens_per_micro_batch:,} "
        "tokens; p50, p99: activations at those percentiles of the lengths of streams. Copies: of weights in FP8. "
        "Host: a rank's in the memory of the host. Sent: by the busiest rank."
    )
    unused = [name for name in _NOT_ALWAYS if not any(getattr(one.memory, name) for one in fits)]
    columns = {name: text for name, text in _COLUMNS.items() if name not in unused}
    terminal.table([*columns], [[text(one) for text in columns.values()] for one in fits[:num_rows]])
    if not fits:
        terminal.line("No layout fits.")
    too_big = sorted((one for one in rejected if one.needed_bytes), key=lambda one: one.needed_bytes or 0)
    impossible = [one for one in rejected if not one.needed_bytes]
    terminal.line(
        f"{len(fits)} layouts fit, {len(too_big)} are too big, {len(impossible)} cannot be; --json has them all. The "
        "nearest of those too big, and why the others cannot be, with an example of each reason:"
    )
    for one in too_big[:num_rows]:
        terminal.line(f"  {name(one.model)}: {one.reason}")
    for text in _reasons(impossible, run.world_size)[:num_rows]:
        terminal.line(f"  {text}")
    if fits:
        terminal.line(told_failures(run.plan.failures, run.world_size, fits[0].time.total))
        terminal.line("\nThe fastest, beside your own settings:\n" + " ".join(overrides(run, fits[0].model)))


def _reasons(impossible: Sequence[Rejected], world_size: int) -> list[str]:
    """Count the layouts that fail for the same reason with other numbers, most first; the plain one has no example."""
    groups: dict[str, list[Rejected]] = {}
    for one in impossible:
        groups.setdefault(_NUMBER.sub("n", one.reason), []).append(one)
    return [
        f"{len(group)} {'layouts do' if len(group) > 1 else 'layout does'} not divide the {world_size} devices"
        if kind.startswith("world size")
        else f"{len(group)}, {name(group[0].model)} for one: {group[0].reason}"
        for kind, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def as_json(run: PlanRun, results: Sequence[Planned | Rejected]) -> str:
    """Write everything as JSON: layouts that fit by time, then those that do not."""
    fits = [
        {
            "layout": _layout(one.model),
            "data_parallel_size": one.data_parallel_size,
            "streams_per_step": one.streams,
            "memory_bytes": asdict(one.memory) | {"total": one.memory.total},
            "activations_bytes_at_percentile": one.activations_at,
            "time_s": asdict(one.time) | {"total": one.time.total},
            "sent_bytes": one.sent,
            "tokens_per_s": one.tokens_per_s,
            "hours_per_epoch": one.hours,
            "device_hours_per_epoch": one.hours * one.world_size,
        }
        for one in sorted_by_time(results)
    ]
    rejected = [
        {"layout": _layout(one.model), "reason": one.reason, "needed_bytes": one.needed_bytes}
        for one in results
        if isinstance(one, Rejected)
    ]
    whole: dict[str, Any] = {"settings": _facts(run), "cluster": asdict(run.cluster), "world_size": run.world_size}
    if fits:
        whole["failures"] = outlook(run.plan.failures, run.world_size, sorted_by_time(results)[0].time.total)
    return json.dumps(whole | {"fits": fits, "rejected": rejected}, allow_nan=False)


def sorted_by_time(results: Sequence[Planned | Rejected]) -> list[Planned]:
    """Give the layouts that fit, the fastest first."""
    return sorted((one for one in results if isinstance(one, Planned)), key=lambda one: one.time.total)


def name(model: ModelSettings) -> str:
    """Name a layout by its sizes that are not 1: TP8 PP4 VPP2."""
    parts = {
        "TP": model.tensor_model_parallel_size,
        "PP": model.pipeline_model_parallel_size,
        "VPP": model.virtual_pipeline_model_parallel_size or 1,
        "CP": model.context_parallel_size,
        "EP": model.expert_model_parallel_size,
    }
    given = [f"{part}{size}" for part, size in parts.items() if size > 1] or ["1 rank a replica"]
    _, _, number = recomputation(model)
    return " ".join(given + ([f"recompute {number}"] if number else []))


def overrides(run: PlanRun, model: ModelSettings) -> list[str]:
    """Write overrides for nemo-bt train: the layout, and the values in which plan.yaml differs from train.yaml."""
    values = {f"model.{key}": value for key, value in _layout(model).items()}
    values |= {
        "model.optim.name": model.optim.name,
        "trainer.precision": run.trainer.precision,
        "trainer.devices": run.trainer.devices,
        "trainer.num_nodes": run.trainer.num_nodes,
    }
    return [f"{key}={'null' if value is None else str(value).lower()}" for key, value in values.items()]


def _facts(run: PlanRun) -> dict[str, str | int]:
    """Say what a plan is about."""
    model = run.model
    lengths = run.plan.lengths
    drawn = f"{lengths.num_pairs:,}, drawn from plan.lengths: {lengths.prefix_tokens}, {lengths.response_tokens}"
    return {
        "devices": f"{run.world_size} x {run.cluster.name} ({run.cluster.origin})",
        "model": model.restore_from_path or _new_model(model),
        "pairs of an epoch": ", ".join(source.name for source in model.data.train) if model.data.train else drawn,
        "pairs a step": model.global_batch_size,
        "tokens of a stream at most": model.data.tokens_per_micro_batch,
        "precision": run.trainer.precision + (f", linear layers in FP8 ({model.fp8_recipe})" if model.fp8 else ""),
        "optimizer": model.optim.name + (_OFFLOADED if model.optim.optimizer_cpu_offload else ""),
        "trained": _trained(model),
    }


def _trained(model: ModelSettings) -> str:
    lora = model.peft.lora
    return (
        f"the head and adapters of rank {lora.adapter_dim}: {', '.join(lora.target_modules)}" if lora else "everything"
    )


def _new_model(model: ModelSettings) -> str:
    sizes = model.hf_config or {"num_hidden_layers": model.num_layers, "hidden_size": model.hidden_size}
    family = f"{sizes['model_type']}, " if "model_type" in sizes else ""
    return f"{family}{sizes.get('num_hidden_layers')} layers of width {sizes.get('hidden_size')}"


def _layout(model: ModelSettings) -> dict[str, Any]:
    return {key: getattr(model, key) for key in LAYOUT}


_NOT_ALWAYS = ("copies", "host")
"""Columns of memory that are there with FP8 and with an offloaded optimizer."""
_COLUMNS: dict[str, Callable[[Planned], str]] = {
    "layout": lambda one: f"{name(one.model)} DP{one.data_parallel_size}",
    "step s": lambda one: f"{one.time.total:.2f}",
    "tokens/s": lambda one: f"{one.tokens_per_s:,.0f}",
    "hours": lambda one: f"{one.hours:.2f}",
    "GPU-hours": lambda one: f"{one.hours * one.world_size:,.0f}",
    "bubble": lambda one: f"{one.time.bubble / one.time.total:.0%}",
    "weights": lambda one: f"{one.memory.weights / GIB:.1f}",
    "grads": lambda one: f"{one.memory.gradients / GIB:.1f}",
    "optim": lambda one: f"{one.memory.optimizer / GIB:.1f}",
    "copies": lambda one: f"{one.memory.copies / GIB:.1f}",
    "workspaces": lambda one: f"{one.memory.workspaces / GIB:.1f}",
    "activations": lambda one: f"{one.memory.activations / GIB:.1f}",
    "p50": lambda one: f"{one.activations_at[50] / GIB:.1f}",
    "p99": lambda one: f"{one.activations_at[99] / GIB:.1f}",
    "buffers": lambda one: f"{one.memory.buffers / GIB:.1f}",
    "GiB": lambda one: f"{one.memory.total / GIB:.1f}",
    "host": lambda one: f"{one.memory.host / GIB:.1f}",
    "sent GB": lambda one: f"{sum(one.sent.values()) / 1e9:.1f}",
}

"""Which checkpoints stay: the newest, the best by a metric, and one every so many steps. It imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from nemo_bt.checkpoint.find import saved_checkpoints, step_of
from nemo_bt.checkpoint.manifest import plain_damage
from nemo_bt.config.run import CheckpointSettings
from nemo_bt.observability.metrics_log import read_metrics


def superseded(folder: Path, settings: CheckpointSettings) -> list[Path]:
    """List the checkpoints that need not stay, oldest first. A damaged one is no reason to let another go.

    What a step's validation gave is read from metrics.jsonl, beside the folder of checkpoints.
    """
    if settings.save_last_n == 0:
        return []
    whole = {step_of(path): path for path in saved_checkpoints(folder) if plain_damage(path) is None}
    lines = read_metrics(folder.parent) if settings.save_top_k else []
    values = {line["step"]: line.get(settings.monitor) for line in lines if settings.monitor in line}
    kept = kept_steps({step: values.get(step) for step in whole}, settings)
    return [path for step, path in whole.items() if step not in kept]


def kept_steps(values: Mapping[int, float | None], settings: CheckpointSettings) -> set[int]:
    """Choose the steps whose checkpoints stay; where values are equal, the earlier step is the better one.

    `values` has `settings.monitor` of every checkpoint by step; None where that step was not validated.
    """
    steps = sorted(values)
    measured = [(value, step) for step, value in values.items() if value is not None and math.isfinite(value)]
    sign = -1 if settings.mode == "max" else 1
    best = sorted(measured, key=lambda pair: (sign * pair[0], pair[1]))[: settings.save_top_k]
    every = settings.keep_every_n_train_steps
    at_intervals = {step for step in steps if every and step % every == 0}
    return set(steps[-settings.save_last_n :]) | {step for _, step in best} | at_intervals

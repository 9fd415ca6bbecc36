"""The best checkpoint of a run, by what its validations gave. It imports nothing heavy, and changes nothing."""

from __future__ import annotations

import math
import os
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from nemo_bt.checkpoint.find import saved_checkpoints, step_of
from nemo_bt.foreign.files import read_yaml
from nemo_bt.observability.metrics_log import read_metrics

MEAN_LOSS = "mean validation loss"


class Best(NamedTuple):
    """A checkpoint, and why it is the best.

    Args:
        metric: name of what was compared.
        value: that of the checkpoint.
    """

    path: Path
    metric: str
    value: float


def best_checkpoint(log_dir: Path) -> Best | None:
    """Find the checkpoint whose validation gave the best `monitor`, or the lowest mean loss where the run has none.

    Where values are equal, the earlier step is the better one. None: no step with a checkpoint was validated.
    """
    metric, sign = _metric(log_dir / "config.yaml")
    found = {line["step"]: _value(line, metric) for line in read_metrics(log_dir)}
    values = {step: value for step, value in found.items() if value is not None}
    measured = [path for path in saved_checkpoints(log_dir / "checkpoints") if step_of(path) in values]
    best = min(measured, key=lambda path: (sign * values[step_of(path)], step_of(path)), default=None)
    return Best(best, metric, values[step_of(best)]) if best else None


def _metric(config: Path) -> tuple[str, int]:
    """Name what the run compares its checkpoints by, and -1 where more of it is better."""
    settings = read_yaml(config, "the settings of a run") if os.path.lexists(config) else {}
    exp = settings.get("exp_manager")
    for section in ("checkpoint_callback_params", "early_stopping_callback_params"):
        params = exp.get(section) if isinstance(exp, dict) else None
        if isinstance(params, dict) and params.get("monitor"):
            return str(params["monitor"]), -1 if params.get("mode") == "max" else 1
    return MEAN_LOSS, 1


def _value(line: dict[str, Any], metric: str) -> float | None:
    losses = [value for key, value in line.items() if key.startswith("val/") and key.endswith("/loss")]
    is_known = losses and None not in losses
    value = line.get(metric) if metric != MEAN_LOSS else fmean(losses) if is_known else None
    return float(value) if value is not None and math.isfinite(value) else None

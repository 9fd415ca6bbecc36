"""Learning rate over steps: NeMo's schedules, by NeMo's names. Importing this file imports NeMo."""

from __future__ import annotations

import math
from typing import Any

import nemo.core.optim.lr_scheduler as nemo_schedules
from nemo.lightning.pytorch.optim import LRSchedulerModule

from nemo_bt.config.optim import SchedSettings

_CLASSES = {"constant": "WarmupPolicy"}
"""Classes of NeMo whose names are not those of the settings."""
_HOLDS = ("WarmupHoldAnnealLinear", "WarmupHoldAnnealOneMinusSquareRoot")


def options_of(sched: SchedSettings, num_steps: int) -> dict[str, Any]:
    """Give the arguments of NeMo's class for a run of `num_steps`: everything in steps."""
    options: dict[str, Any] = {
        "max_steps": num_steps,
        "min_lr": sched.min_lr,
        "warmup_steps": sched.num_warmup_steps(num_steps),
    }
    if sched.name == "CosineAnnealing":
        options["constant_steps"] = 0
    if sched.name == "PolynomialDecayAnnealing":
        options["power"] = sched.power
    if sched.name in _HOLDS:
        decay_steps = math.ceil(sched.decay_ratio * num_steps)
        options["hold_steps"] = max(0, num_steps - decay_steps - options["warmup_steps"])
    return options


class Schedule(LRSchedulerModule):
    """A schedule for NeMo's optimizer module: a name of the settings, and its arguments from `options_of`."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.options = options

    def scheduler(self, model: Any, optimizer: Any) -> dict[str, Any]:
        """Describe it to Lightning: the schedule takes a step with each one of the optimizer."""
        schedule = getattr(nemo_schedules, _CLASSES.get(self.name, self.name))(optimizer, **self.options)
        described = {"scheduler": schedule, "interval": "step", "frequency": 1}
        return {"optimizer": optimizer, "lr_scheduler": described, "monitor": ""}

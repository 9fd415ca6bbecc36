"""Which settings each command takes."""

from __future__ import annotations

from typing import Any

from nemo_bt.config.model import Settings
from nemo_bt.config.plan import PlanRun
from nemo_bt.config.score import RUNS
from nemo_bt.config.serve import ServeRun

_KINDS: dict[str, type[Any]] = {"plan": PlanRun, "serve": ServeRun, **RUNS}


def kind_of(command: str) -> type[Any]:
    """Give the dataclass of a command's settings, or of the configuration of that name."""
    return _KINDS.get(command, Settings)

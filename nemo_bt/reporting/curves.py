"""metrics.jsonl -> curves of a run over its steps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(r"^(train|val/(?P<validation>.+?))(/source/(?P<source>.+))?/(?P<metric>[^/]+)$")


@dataclass(frozen=True)
class Series:
    """One line of a panel: values at optimizer steps; its label stands in the legend."""

    label: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """One picture, of one line or more; `name` is that of its file, `unit` that of all values."""

    name: str
    title: str
    unit: str
    series: list[Series]


_PANELS = (
    ("loss", "Loss", "nats per pair, or as the loss has it", ("loss",)),
    ("accuracy", "Accuracy", "fraction of pairs", ("accuracy",)),
    ("rewards", "Mean reward", "reward", ("reward_chosen", "reward_rejected")),
    ("margin", "Mean margin", "reward", ("margin",)),
    ("deviation", "Standard deviation of the rewards", "reward", ("reward_std",)),
    ("learning-rate", "Learning rate", "per step", ("lr",)),
    ("gradient", "Gradient norm, before clipping", "nats per unit of weight", ("grad_norm",)),
    ("speed", "Speed", "tokens per second", ("tokens_per_second",)),
    ("sources", "Accuracy by source", "fraction of pairs", ()),
)
"""Name, title and unit of each panel, and the metrics of training and of validation sets that it shows."""


def panels_of(records: Sequence[dict[str, Any]]) -> list[Panel]:
    """Make the panels that have something to show from the records of metrics.jsonl."""
    names = dict.fromkeys(key for record in records for key in record if _KEY.match(key))
    panels = []
    for name, title, unit, metrics in _PANELS:
        series = [_series(records, key) for key in names if _belongs(key, metrics)]
        panels.append(Panel(name, title, unit, [one for one in series if one.values]))
    return [panel for panel in panels if panel.series]


def _belongs(key: str, metrics: tuple[str, ...]) -> bool:
    _, source, metric = _parts(key)
    if not metrics:
        return source is not None and metric == "accuracy"
    return source is None and metric in metrics


def _series(records: Sequence[dict[str, Any]], key: str) -> Series:
    """Collect the points by step, without those that nobody computed or that are not finite."""
    known = [record for record in records if record.get(key) is not None and math.isfinite(record[key])]
    points = sorted((record["step"], record[key]) for record in known)
    return Series(_label(key), [step for step, _ in points], [value for _, value in points])


def _label(key: str) -> str:
    """Label `val/hh/accuracy` as hh and `train/source/a/accuracy` as train, a; add chosen or rejected."""
    of_set, source, metric = _parts(key)
    which = {"reward_chosen": "chosen", "reward_rejected": "rejected"}.get(metric)
    return ", ".join(part for part in (of_set, source, which) if part)


def _parts(key: str) -> tuple[str, str | None, str]:
    """Split a key into its set, its source where it has one, and its metric."""
    found = _KEY.match(key)
    assert found, key
    return found["validation"] or "train", found["source"], found["metric"]

"""metrics.jsonl -> curves of a run over its steps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(
    r"^(train|val/(?P<validation>.+?))(/source/(?P<source>.+?))?(/attribute/(?P<attribute>.+))?/(?P<metric>[^/]+)$"
)


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
    ("sources", "Accuracy by source", "fraction of pairs", ("source/accuracy",)),
    ("attributes", "Error of each attribute", "squared unit of its values, or nats", ("attribute/error",)),
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
    _, source, attribute, metric = _parts(key)
    kind = "".join(f"{name}/" for name, one in (("source", source), ("attribute", attribute)) if one is not None)
    return f"{kind}{metric}" in metrics


def _series(records: Sequence[dict[str, Any]], key: str) -> Series:
    """Collect the points by step, without those that nobody computed or that are not finite."""
    known = [record for record in records if record.get(key) is not None and math.isfinite(record[key])]
    points = sorted((record["step"], record[key]) for record in known)
    return Series(_label(key), [step for step, _ in points], [value for _, value in points])


def _label(key: str) -> str:
    """Label `val/hh/accuracy` as hh and `train/source/a/accuracy` as train, a; add chosen or rejected."""
    of_set, source, attribute, metric = _parts(key)
    which = {"reward_chosen": "chosen", "reward_rejected": "rejected"}.get(metric)
    return ", ".join(part for part in (of_set, source, attribute, which) if part)


def _parts(key: str) -> tuple[str, str | None, str | None, str]:
    """Split a key into its set, its source and its attribute where it has them, and its metric."""
    found = _KEY.match(key)
    assert found, key
    return found["validation"] or "train", found["source"], found["attribute"], found["metric"]

"""JudgeBench: accuracy over all pairs, and the mean of its four categories.

Source: Tan et al. 2024 (arXiv 2410.12784), table 2; categories of ScalerLab/JudgeBench, run_judge.py, which asks twice,
once in each order: a model that ties is right neither time.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from nemo_bt.evaluation.accuracy import Scored, tally

CATEGORIES = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")
"""Beginnings of the column source."""


def scores(rows: Sequence[Scored]) -> dict[str, float]:
    """Give the accuracy of each category that is there, `micro` over all pairs, and `macro`, the categories' mean."""
    pairs = {
        category: [pair for row in rows if row.names["source"].startswith(category) for pair in row.pairs]
        for category in CATEGORIES
    }
    found = {category: tally(own).accuracy for category, own in pairs.items() if own}
    micro = tally([pair for own in pairs.values() for pair in own]).accuracy
    return found | {"micro": micro, "macro": fmean(found.values())}

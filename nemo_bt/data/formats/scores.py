"""Scores, ranks, margins and weights of a row, as the settings name them. What cannot be used raises RowError."""

from __future__ import annotations

import math
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.values import as_number, has_value, list_at, number_at
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError


def score_columns(keys: RowSettings) -> list[str]:
    """List the names under which scores, ranks and attributes are looked for."""
    names = [keys.score_key] if isinstance(keys.score_key, str) else list(keys.score_key)
    scores = [name for key in (*names, keys.rank_key) for name in (key, f"{key}s")]
    attributes = [name for key in keys.attribute_keys.values() for name in ([key] if isinstance(key, str) else key)]
    return [*scores, *(name.split(".")[0] for name in attributes)]


def score_of(holder: dict[str, Any], keys: RowSettings) -> float:
    """Give a score, the weighted mean of several, or minus a rank: higher is better; NaN where attributes are read."""
    if isinstance(keys.score_key, dict):
        total = sum(weight * number_at(holder, key) for key, weight in keys.score_key.items())
        return total / sum(abs(weight) for weight in keys.score_key.values())
    if isinstance(keys.score_key, list):
        raise UserError(
            f"model.data.score_key={keys.score_key}: two columns are for rows that name the chosen response. Give one "
            "column, or a section of columns with weights."
        )
    for name in (keys.score_key, f"{keys.score_key}s"):
        if has_value(holder, name):
            return number_at(holder, name)
    if keys.attribute_keys and not has_value(holder, keys.rank_key):
        return math.nan  # they decide, with their weights (nemo_bt.data.store.spec)
    name = keys.rank_key if has_value(holder, keys.rank_key) else f"{keys.rank_key}s"
    rank = number_at(holder, name)
    if rank < 0:
        raise RowError("type", f"'{name}' is {rank:g}, expected a rank: 1 or 0 for the best, and more for others")
    return -rank


def preference_of(row: dict[str, Any], keys: RowSettings) -> float:
    """Read the probability that the chosen one is better; 1 where no column is named."""
    if keys.preference_key is None:
        return 1.0
    number = number_at(row, keys.preference_key)
    if not 0 <= number <= 1:
        raise RowError("type", f"'{keys.preference_key}' is {number:g}, expected a probability, 0 to 1")
    return number


def given_scores(row: dict[str, Any], keys: RowSettings) -> tuple[float, float] | None:
    """Give the scores of chosen and rejected, where the settings name columns that the row has."""
    if isinstance(keys.score_key, list):
        chosen, rejected = (number_at(row, key) for key in keys.score_key)
        if chosen < rejected:
            raise RowError(
                "type", f"{keys.score_key} are {chosen:g} and {rejected:g}: the chosen one has the lower score"
            )
        return chosen, rejected
    if isinstance(keys.score_key, str) and isinstance(row.get(keys.score_key), list):
        scores = [as_number(score, keys.score_key) for score in list_at(row, keys.score_key)]
        if len(scores) != 2:
            raise RowError("type", f"'{keys.score_key}' has {len(scores)} scores, expected two")
        return max(scores), min(scores)
    return None


def not_negative(row: dict[str, Any], key: str | None) -> float | None:
    """Read a number of 0 or more; None where the column is not there, or null in this row."""
    if key is None or not has_value(row, key):
        return None
    number = number_at(row, key)
    if number < 0:
        raise RowError("type", f"'{key}' is {number}, expected 0 or more")
    return number

"""Columns of other names -> the keys that name them, for the message of a file that no format fits."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.values import as_list

_SIDES = {
    "chosen_key": ("chosen", "preferred", "winner", "winning", "win", "positive", "pos", "better", "accepted", "good"),
    "rejected_key": (
        "rejected",
        "dispreferred",
        "loser",
        "losing",
        "lose",
        "negative",
        "neg",
        "worse",
        "bad",
        "reject",
    ),
}
_PROMPT = ("prompt", "question", "query", "instruction", "input", "context", "post")
_RESPONSE = ("response", "answer", "completion", "output", "generation", "text", "content", "reply")


def keys_to_set(columns: Mapping[str, Any], keys: RowSettings) -> str:
    """Say which keys to set for these columns, as they are typed; where nothing is to be guessed, which there are.

    Args:
        columns: name -> a value of it.
    """
    sides = {key: _named(columns, words, str | list | dict) for key, words in _SIDES.items()}
    prompt = _named(columns, _PROMPT, str | list)
    found: dict[str, str | None] = {"prompt_key": prompt}
    answers = next((name for name, value in columns.items() if name != prompt and _is_records(value)), None)
    if all(sides.values()):
        found |= sides
    elif answers:
        record = as_list(columns[answers])[0]
        found |= {"completions_key": answers, "response_key": _named(record, _RESPONSE, str)} | _score_of(record)
    elif prompt and len(responses := _all_named(columns, _RESPONSE, str)) == 1:
        found |= {"response_key": responses[0]} | _score_of({k: v for k, v in columns.items() if k != "id"})
    else:
        return "Set model.data.chosen_key and the like"
    wanted = [
        shlex.quote(f"model.data.{key}={name}") for key, name in found.items() if name and name != getattr(keys, key)
    ]
    return f"Set {' '.join(wanted)}" if wanted else "Set model.data.chosen_key and the like"


def _named(columns: Mapping[str, Any], words: tuple[str, ...], kinds: Any) -> str | None:
    return next(iter(_all_named(columns, words, kinds)), None)


def _all_named(columns: Mapping[str, Any], words: tuple[str, ...], kinds: Any) -> list[str]:
    """Find the columns whose names have one of the words, the first word's first."""
    parts = {name: re.findall(r"[a-z]+", name.lower()) for name, value in columns.items() if isinstance(value, kinds)}
    return list(dict.fromkeys(name for word in words for name, of_name in parts.items() if word in of_name))


def _is_records(value: Any) -> bool:
    found = as_list(value)
    is_list = isinstance(found, list) and bool(found)
    return is_list and all(isinstance(one, dict) and "role" not in one and "from" not in one for one in found)


def _score_of(record: Mapping[str, Any]) -> dict[str, str | None]:
    """Name the number by which responses can be compared; a rank where one is called so."""
    numbers = [name for name, value in record.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    rank = next((name for name in numbers if "rank" in name.lower()), None)
    if rank:
        return {"rank_key": rank}
    return {"score_key": numbers[0]} if numbers else {}

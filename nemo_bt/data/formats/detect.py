"""Which format a file has: by its columns and what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats import general as formats
from nemo_bt.data.formats import published
from nemo_bt.data.formats.general import Format, is_transcript, score_columns
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.rows import Row
from nemo_bt.errors import UserError


def _sides(keys: RowSettings) -> list[str]:
    return [keys.chosen_key, keys.rejected_key, *score_columns(keys)]


def _with_system(*columns: str) -> Callable[[RowSettings], list[str]]:
    return lambda keys: [*columns, *([keys.system_key] if keys.system_key else []), *score_columns(keys)]


def _prompt(keys: RowSettings) -> list[str]:
    return [keys.prompt_key] + ([keys.system_key] if keys.system_key else [])


FORMATS: dict[str, Format] = {
    "helpsteer3": Format(published.helpsteer3, _with_system("input", "output")),
    "preference": Format(published.preference, _with_system(*(c for cs in published.PREFERENCE_COLUMNS for c in cs))),
    "shp": Format(published.shp, _with_system("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B")),
    "safe_rlhf": Format(published.safe_rlhf, _with_system("prompt", "response_0", "response_1", "better_response_id")),
    "halos": Format(
        published.halos, _with_system("type", "prompt", "output_A", "output_B", "label", "reward_A", "reward_B")
    ),
    "ranked": Format(formats.ranked, lambda keys: [*_prompt(keys), keys.completions_key, *score_columns(keys)]),
    "scored": Format(
        formats.scored, lambda keys: [*_prompt(keys), keys.response_key, *score_columns(keys)], one_response=True
    ),
    "prompt": Format(formats.prompt, lambda keys: [*_prompt(keys), *_sides(keys)]),
    "messages": Format(formats.messages, _sides),
    "hh": Format(formats.hh, _sides),
    "text": Format(formats.text, _sides),
}
"""Name -> format, in the order in which `detect` asks."""


def named_format(keys: RowSettings) -> str | None:
    """Give the format that the settings name; None where it is to be seen from the rows.

    Raises:
        UserError: there is none of that name.
    """
    if keys.format not in ("auto", *FORMATS):
        raise UserError(f"model.data.format: expected auto or one of {', '.join(FORMATS)}, got {keys.format}.")
    return None if keys.format == "auto" else keys.format


def columns_of(names: Iterable[str], keys: RowSettings) -> list[str] | None:
    """List the columns that the named formats read; None is all, where keys are paths into them."""
    wanted = [column for name in names for column in FORMATS[name].columns(keys)]
    columns = [key for key in (*wanted, keys.margin_key, keys.weight_key) if key]
    return None if any("." in key for key in columns) else columns


def detect(name: str, rows: list[Row], keys: RowSettings, types: Mapping[str, str] | None = None) -> str:
    """Find the format of a file by the columns of its first rows.

    Args:
        name: names the file in messages.
        types: what the file says of all its columns, if it does, for messages.

    Raises:
        UserError: none fits. Says which columns there are, with their types.
    """
    columns = columns_seen(rows)
    found = _fitting(columns, keys)
    if found is None:
        if not columns and not types:
            bad = next((str(row.detail) for row in rows if isinstance(row, RowError)), "none")
            raise UserError(f"{name}: no row can be read ({bad}). Expected rows of JSON objects.")
        kinds = types or {column: _kind(value) for column, value in columns.items()}
        have = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
        raise UserError(
            f"{name}: no format fits, found columns {have}. Expected '{keys.chosen_key}' and "
            f"'{keys.rejected_key}' as text or lists of messages, or '{keys.prompt_key}' with '{keys.completions_key}' "
            f"or '{keys.response_key}' and scores. Set model.data.chosen_key and the like, or model.data.format to "
            f"one of {', '.join(FORMATS)}."
        )
    return found


def _fitting(columns: dict[str, Any], keys: RowSettings) -> str | None:
    has = columns.keys()
    chosen = columns.get(keys.chosen_key)
    rejected = columns.get(keys.rejected_key)
    known = {
        "helpsteer3": {"input", "output"} <= has,
        "preference": any(set(names) <= has for names in published.PREFERENCE_COLUMNS),
        "shp": {"history", "human_ref_A", "human_ref_B", "labels"} <= has,
        "safe_rlhf": {"prompt", "response_0", "response_1"} <= has,
        "halos": {"prompt", "output_A", "output_B", "label"} <= has,
        "ranked": {keys.prompt_key, keys.completions_key} <= has,
        "scored": {keys.prompt_key, keys.response_key} <= has and any(name in has for name in score_columns(keys)),
        "prompt": keys.prompt_key in has and _kind(chosen) == _kind(rejected) and _kind(chosen) in ("text", "messages"),
        "messages": _kind(chosen) == _kind(rejected) == "messages",
        "hh": is_transcript(chosen) and is_transcript(rejected),
        "text": _kind(chosen) == _kind(rejected) == "text",
    }
    return next((name for name in FORMATS if known[name]), None)


def columns_seen(rows: list[Row]) -> dict[str, Any]:
    """Map each column to the first value in it that is not null."""
    columns: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, dict):
            for name, value in row.items():
                if columns.get(name) is None:
                    columns[name] = value
    return columns


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and value and all(isinstance(item, dict) and "role" in item for item in value):
        return "messages"
    return "null" if value is None else type(value).__name__

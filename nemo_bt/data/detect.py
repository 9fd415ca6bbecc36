"""Which format a file has: by its columns and what stands in them."""

from __future__ import annotations

from typing import Any

from nemo_bt.data import formats, published
from nemo_bt.data.account import RowError
from nemo_bt.data.files import DataFile
from nemo_bt.data.formats import Format
from nemo_bt.data.rows import Row
from nemo_bt.data.settings import RowSettings
from nemo_bt.errors import UserError


def _sides(keys: RowSettings) -> list[str]:
    return [keys.chosen_key, keys.rejected_key, *_scores(keys)]


def _scores(keys: RowSettings) -> list[str]:
    names = [keys.score_key] if isinstance(keys.score_key, str) else list(keys.score_key)
    return [name for key in (*names, keys.rank_key) for name in (key, f"{key}s")]


def _prompt(keys: RowSettings) -> list[str]:
    return [keys.prompt_key] + ([keys.system_key] if keys.system_key else [])


FORMATS: dict[str, Format] = {
    "helpsteer3": Format(published.helpsteer3, lambda keys: ["input", "output"]),
    "preference": Format(published.preference, lambda keys: [c for cs in published.PREFERENCE_COLUMNS for c in cs]),
    "shp": Format(
        published.shp,
        lambda keys: ["history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"],
        prompt_key=lambda keys: "history",
    ),
    "safe_rlhf": Format(
        published.safe_rlhf,
        lambda keys: ["prompt", "response_0", "response_1", "better_response_id", *_scores(keys)],
        prompt_key=lambda keys: "prompt",
    ),
    "halos": Format(
        published.halos,
        lambda keys: ["type", "prompt", "output_A", "output_B", "label", "reward_A", "reward_B"],
        prompt_key=lambda keys: "prompt",
    ),
    "ranked": Format(formats.ranked, lambda keys: [*_prompt(keys), keys.completions_key, *_scores(keys)]),
    "scored": Format(
        formats.scored,
        lambda keys: [*_prompt(keys), keys.response_key, *_scores(keys)],
        prompt_key=lambda keys: keys.prompt_key,
        one_response=True,
    ),
    "prompt": Format(
        formats.prompt, lambda keys: [*_prompt(keys), *_sides(keys)], prompt_key=lambda keys: keys.prompt_key
    ),
    "messages": Format(formats.messages, _sides),
    "hh": Format(formats.hh, _sides),
    "text": Format(formats.text, _sides),
}
"""Name -> format, in the order in which `detect` asks."""


def detect(file: DataFile, rows: list[Row], keys: RowSettings) -> str:
    """The format of a file.

    Args:
        file: for messages.
        rows: its first rows.
        keys: `format` auto, or the answer; names of columns.

    Raises:
        UserError: no such format, or none that fits. Says which columns there are, with their types.
    """
    if keys.format != "auto":
        if keys.format not in FORMATS:
            raise UserError(f"model.data.format: expected auto or one of {', '.join(FORMATS)}, got {keys.format}.")
        return keys.format
    columns = _columns(rows)
    found = _fitting(columns, keys)
    if found is None:
        if not columns:
            bad = next((str(row.detail) for row in rows if isinstance(row, RowError)), "none")
            raise UserError(f"{file.name}: no row can be read ({bad}). Expected rows of JSON objects.")
        have = ", ".join(f"{name} ({_kind(value)})" for name, value in columns.items())
        raise UserError(
            f"{file.name}: no format fits, found columns {have}. Expected '{keys.chosen_key}' and "
            f"'{keys.rejected_key}' as text or lists of messages, or '{keys.prompt_key}' with '{keys.completions_key}' "
            f"or '{keys.response_key}' and scores. Set model.data.chosen_key and the like, or model.data.format to "
            f"one of {', '.join(FORMATS)}."
        )
    return found


def _fitting(columns: dict[str, Any], keys: RowSettings) -> str | None:
    has = columns.keys()
    chosen, rejected = columns.get(keys.chosen_key), columns.get(keys.rejected_key)
    known = {
        "helpsteer3": {"input", "output"} <= has,
        "preference": any(set(names) <= has for names in published.PREFERENCE_COLUMNS),
        "shp": {"history", "human_ref_A", "human_ref_B", "labels"} <= has,
        "safe_rlhf": {"prompt", "response_0", "response_1"} <= has,
        "halos": {"prompt", "output_A", "output_B", "label"} <= has,
        "ranked": {keys.prompt_key, keys.completions_key} <= has,
        "scored": {keys.prompt_key, keys.response_key} <= has and any(name in has for name in _scores(keys)),
        "prompt": keys.prompt_key in has and _kind(chosen) == _kind(rejected) and _kind(chosen) in ("text", "messages"),
        "messages": _kind(chosen) == _kind(rejected) == "messages",
        "hh": _is_transcript(chosen) and _is_transcript(rejected),
        "text": _kind(chosen) == _kind(rejected) == "text",
    }
    return next((name for name in FORMATS if known[name]), None)


def _columns(rows: list[Row]) -> dict[str, Any]:
    """Column -> the first value in it that is not null."""
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


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("\n\nHuman:") and "\n\nAssistant:" in value

"""Which format a file has: by its columns and what stands in them. A column with text that no key reads is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.attributes import of_two
from nemo_bt.data.formats.format import Format
from nemo_bt.data.formats.key_hints import keys_to_set
from nemo_bt.data.formats.left_over import left_over, refusal
from nemo_bt.data.formats.line_pairs import in_pairs, unlike
from nemo_bt.data.formats.parse import parse
from nemo_bt.data.formats.responses import PromptGroup
from nemo_bt.data.formats.scores import score_columns
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.formats.turns import is_transcript, turns_in
from nemo_bt.data.formats.values import as_list, has_value, value_at
from nemo_bt.data.read.chunk import Row
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError


@dataclass(frozen=True)
class Detected:
    """The format of a file.

    Args:
        name: key of FORMATS.
        unread: columns that nothing reads.
        judged: columns that are read, left out by the settings, or filled in these rows: no later row changes what is
            known of them.
    """

    name: str
    unread: tuple[str, ...]
    judged: frozenset[str]


def named_format(keys: RowSettings) -> str | None:
    """Give the format that the settings name; None where it is to be seen from the rows.

    Raises:
        UserError: there is none of that name.
    """
    if keys.format not in ("auto", *FORMATS):
        raise UserError(f"model.data.format: expected auto or one of {', '.join(FORMATS)}, got {keys.format}.")
    return None if keys.format == "auto" else keys.format


def parsed(row: Row, number: int, name: str, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read the responses of a row in a format.

    Raises:
        RowError: the row cannot be used.
    """
    if isinstance(row, RowError):
        raise row
    return parse(row, number, FORMATS[name], keys, chat)


def detect(
    name: str, rows: Sequence[Row], keys: RowSettings, types: Mapping[str, str] | None = None, scores: bool = False
) -> Detected:
    """Find the format of a file by the columns of its first rows; one that leaves a column with text unread is none.

    Args:
        name: names the file in messages.
        types: what the file says of all its columns, if it does, for messages.
        scores: whether rows that can only be scored are looked for too.

    Raises:
        UserError: none fits. Says which columns there are, or which nothing would read.
    """
    columns = columns_seen(rows)
    _check_keys(name, columns, keys, types)
    named = named_format(keys)
    fitting = [named] if named else [form for form in FORMATS if _fits(FORMATS[form], columns, keys, scores)]
    if not named:
        lines = [form for form in fitting if FORMATS[form].lines > 1]
        fitting = [f for f in fitting if f not in lines or in_pairs(rows, FORMATS[f].conversation)]
        if lines and not fitting:
            raise _not_in_pairs(name, rows, lines[0])
    if not fitting:
        raise _unknown(name, rows, columns, keys, types)
    have = columns.keys() | (types or {}).keys()
    fitting = of_two(name, {form: FORMATS[form] for form in fitting}, have, keys)
    left: dict[str, list[str]] = {}
    for form in fitting:
        read = {column.split(".")[0] for column in _read(FORMATS[form], keys)} | set(keys.ignore_columns)
        unread = sorted(set(columns) - read)
        left[form] = left_over(rows, unread, partial(_parse_as, form, keys), asks=form != "text")
        if not left[form]:
            _check_answers(name, form, rows, keys)
            return Detected(form, tuple(unread), frozenset(read | _filled(rows)))
    form = min(left, key=lambda one: len(left[one]))
    raise refusal(name, form, left[form], bool(FORMATS[form].prompt))


def unread_since(name: str, form: str, rows: Sequence[Row], keys: RowSettings, judged: frozenset[str]) -> list[str]:
    """List the columns that later rows fill, and no row before, and that nothing reads.

    Args:
        name: names the file and rows in messages.
        judged: columns that are known.

    Raises:
        UserError: one of them holds a part of the conversation.
    """
    unread = sorted(_filled(rows) - judged)
    left = left_over(rows, unread, partial(_parse_as, form, keys), asks=form != "text") if unread else []
    if left:
        raise refusal(name, form, left, bool(FORMATS[form].prompt))
    return unread


def _filled(rows: Sequence[Row]) -> set[str]:
    return {name for row in rows if isinstance(row, dict) for name, value in row.items() if value}


def _parse_as(name: str, keys: RowSettings, row: Row) -> PromptGroup:
    return parsed(row, 0, name, keys, True)


def _fits(form: Format, columns: dict[str, Any], keys: RowSettings, scores: bool) -> bool:
    """Tell whether a file has the columns of a format, with what it expects in them."""
    if not (form.is_preference or scores) or (scores and form.has_scores and "<prompt>" in form.prompt):
        return False  # what can be scored without scores is read so
    needed = [form.first, form.second, form.strength, form.conversation, form.answers]
    needed.append(form.verdict.column if form.verdict else "")
    if not form.answers and not form.second:
        needed.append(form.response)
    if form.has_scores and not form.answers and not any(name in columns for name in score_columns(keys)):
        return False
    if form.prompt and not any(has_value(columns, keys.named(column)) for column in form.prompt):
        return False
    if not all(has_value(columns, keys.named(column)) for column in needed if column):
        return False
    if form.lines > 1 and set(columns) - set(keys.ignore_columns) != {form.conversation}:
        return False
    return all(kind(value_at(columns, keys.named(column))) in kinds for column, kinds in form.kinds.items())


def columns_of(names: Iterable[str], keys: RowSettings) -> list[str] | None:
    """List the columns that the named formats read; None is all, where keys are paths into them."""
    columns = {column for name in names for column in _read(FORMATS[name], keys)}
    return None if any("." in column or "*" in column for column in columns) else sorted(columns)


def _read(form: Format, keys: RowSettings) -> set[str]:
    """Name the columns that are read from the rows of a format."""
    own = [keys.margin_key, keys.weight_key, keys.preference_key, *score_columns(keys)] if form.is_preference else []
    shapes = [form, form.others] if form.others else [form]
    columns = [keys.named(column) for shape in shapes for column in shape.columns]
    return {name for name in (*columns, *own, keys.tools_key) if name}


def _check_keys(name: str, columns: Mapping[str, Any], keys: RowSettings, types: Mapping[str, str] | None) -> None:
    """Check that a column which the user names for the prompt or the system message is there."""
    have = columns.keys() | (types or {}).keys()
    for key in ("prompt_key", "system_key"):
        named = getattr(keys, key)
        if named and named != getattr(RowSettings, key) and not {named, named.split(".")[0]} & have and columns:
            raise UserError(
                f"{name}: model.data.{key}={named}, but there is no such column: found {', '.join(sorted(have))}. "
                "Where other sources have it, set it in these alone."
            )


def _check_answers(name: str, form: str, rows: Sequence[Row], keys: RowSettings) -> None:
    """Check that answers do not begin with their prompt in every row, where nothing says what that means."""
    read = FORMATS[form]
    if keys.answers_hold_prompt is not None or "<prompt>" not in read.prompt or read.first != "<chosen>":
        return
    repeats = [
        all(str(row.get(key, "")).startswith(row[keys.prompt_key]) for key in (keys.chosen_key, keys.rejected_key))
        for row in rows
        if isinstance(row, dict)
        and isinstance(row.get(keys.prompt_key), str)
        and row[keys.prompt_key].strip()
        and not is_transcript(row[keys.prompt_key])
    ]
    if 2 * sum(repeats) > len(repeats):
        raise UserError(
            f"{name}: '{keys.chosen_key}' and '{keys.rejected_key}' begin with '{keys.prompt_key}' in {sum(repeats)} "
            f"of the first {len(repeats)} rows: the model would read the prompt twice. Set "
            "model.data.answers_hold_prompt=true to take it off the answers, or false to leave them as they are."
        )


def _unknown(
    name: str, rows: Sequence[Row], columns: dict[str, Any], keys: RowSettings, types: Mapping[str, str] | None
) -> UserError:
    if not columns and not types:
        bad = next((str(row.detail) for row in rows if isinstance(row, RowError)), "none")
        return UserError(f"{name}: no row can be read ({bad}). Expected rows of JSON objects.")
    kinds = types or {column: kind(value) for column, value in columns.items()}
    have = ", ".join(f"{column} ({one})" for column, one in kinds.items())
    return UserError(
        f"{name}: no format fits, found columns {have}. Expected '{keys.chosen_key}' and "
        f"'{keys.rejected_key}' as text or lists of messages, or '{keys.prompt_key}' with '{keys.completions_key}' "
        f"or '{keys.response_key}' and scores. {keys_to_set(columns, keys)}, or model.data.format to "
        f"one of {', '.join(FORMATS)}."
    )


def _not_in_pairs(name: str, rows: Sequence[Row], form: str) -> UserError:
    column = FORMATS[form].conversation
    place = unlike(rows, column)
    where = "" if place is None else f": rows {place} and {place + 1}, say"
    return UserError(
        f"{name}: found rows of '{column}' alone, which are read as NeMo-Aligner writes them, a line with the chosen "
        f"text, then one with the rejected, and most twos of lines do not begin with the same prompt{where}. If a line "
        "is missing there, or one is too many, mend the file. If these are no pairs, nothing tells which is better."
    )


def columns_seen(rows: Iterable[Row]) -> dict[str, Any]:
    """Map each column to the first value in it that is not null."""
    columns: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, dict):
            for name, value in row.items():
                if columns.get(name) is None:
                    columns[name] = value
    return columns


def kind(value: Any) -> str:
    """Name what a value is: text, transcript, message, messages, texts, conversations, outputs, or its type."""
    if is_transcript(value):
        return "transcript"
    turns = turns_in(value)
    if turns is not None:
        return "message" if isinstance(value, dict) and not isinstance(value.get("role"), list) else "messages"
    value = as_list(value)
    if isinstance(value, list) and value:
        for name, type_ in (("texts", str), ("conversations", list)):
            if all(isinstance(one, type_) for one in value):
                return name
        return "outputs" if all(isinstance(one, dict) and "answer" in one for one in value) else "list"
    if isinstance(value, str):
        return "text"
    return "null" if value is None else type(value).__name__

"""A row -> its conversations that get a reward, and the columns that the rewards become."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.detect import FORMATS, columns_seen, detect, named_format
from nemo_bt.data.formats.general import answered, answers, is_transcript, transcript
from nemo_bt.data.formats.responses import PromptGroup, Side, Text
from nemo_bt.data.formats.values import as_conversation, as_messages, as_text, list_at, text_at, value_at
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.rows import Row
from nemo_bt.errors import UserError

Reward: TypeAlias = "float | None"
"""None where the conversation cannot be scored."""
Sides: TypeAlias = Callable[[dict[str, Any]], list[list[Side]]]


@dataclass(frozen=True)
class RowReader:
    """How the rows of a file are read.

    Args:
        sides: gives a row's whole conversations for each new column; raises RowError.
        columns: names of the new columns: one, or one each for chosen and rejected.
        is_list: whether a column has a list of rewards in each row.
        kind: text, messages, response, completions (of one prompt), list (of a format with scores), or pair.
    """

    sides: Sides
    columns: list[str]
    is_list: bool
    kind: str

    @property
    def described(self) -> str:
        """Columns and their type, for a message."""
        return f"{' and '.join(self.columns)} of {'lists' if self.is_list else 'numbers'}"

    def check_new(self, where: str, columns: Container[str]) -> None:
        """Check that there is no such column already; `where` is for the message."""
        for name in self.columns:
            if name in columns:
                raise UserError(f"{where}: has a column '{name}' already. Set score.column to another name.")

    def values(self, rewards: Sequence[Sequence[Reward]]) -> dict[str, Any]:
        """Give a row's new columns from the rewards of each one's conversations; none where it cannot be used."""
        if not rewards:
            return dict.fromkeys(self.columns)
        return {
            name: list(found) if self.is_list else found[0] for name, found in zip(self.columns, rewards, strict=True)
        }


def row_reader(file: str, rows: list[Row], keys: RowSettings, chat: bool, column: str) -> RowReader:
    """Find how to read a file from its first rows.

    A row has a list of completions, a response, messages, a text, or pairs with one answer or several on a side.

    Args:
        file: name of the file, for messages.
        rows: first rows of the file.
        keys: names of the columns that are read.
        chat: whether the tokenizer renders messages.
        column: name of the new column.

    Raises:
        UserError: nothing in the file can be scored, or it has such a column already.
    """
    reader = reader_of(file, rows, keys, chat, column)
    reader.check_new(file, columns_seen(rows))
    return reader


def reader_of(file: str, rows: list[Row], keys: RowSettings, chat: bool, column: str) -> RowReader:
    """Find how to read rows as `row_reader` does; they may have their rewards already."""
    has = columns_seen(rows)
    names = [f"{column}_chosen", f"{column}_rejected"]
    if keys.format == "auto" and keys.prompt_key in has:
        if _is_list(has.get(keys.chosen_key)) and _is_list(has.get(keys.rejected_key)):
            return RowReader(partial(_lists, keys=keys, chat=chat), names, True, "pair")
        if isinstance(has.get(keys.completions_key), list):
            return RowReader(lambda row: [answers(row, keys, chat)], [column], True, "completions")
        if keys.response_key in has and not {keys.chosen_key, keys.rejected_key} <= has.keys():
            return RowReader(partial(_response, keys=keys, chat=chat), [column], False, "response")
    if keys.format == "auto" and keys.chosen_key not in has:
        if isinstance(has.get("messages"), list):
            return RowReader(_messages, [column], False, "messages")
        if isinstance(has.get("text"), str):
            return RowReader(lambda row: [[text_side(text_at(row, "text"), chat)]], [column], False, "text")
    parse = FORMATS[named_format(keys) or detect(file, rows, keys)].parse
    if _first(file, rows, lambda row: parse(row, 0, keys, chat)).given is None:
        return RowReader(lambda row: [parse(row, 0, keys, chat).sides], [column], True, "list")

    def of_pair(row: dict[str, Any]) -> list[list[Side]]:
        group = parse(row, 0, keys, chat)
        return [[group.sides[side]] for pair in group.given or [] for side in pair.sides]

    return RowReader(of_pair, names, False, "pair")


def _first(file: str, rows: list[Row], parse: Callable[[dict[str, Any]], PromptGroup]) -> PromptGroup:
    """Parse the first row that can be used."""
    reason: object = "none is there"
    for row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            return parse(row)
        except RowError as bad:
            reason = bad.detail
    raise UserError(f"{file}: none of the first {len(rows)} rows can be used ({reason}).")


def _is_list(value: Any) -> bool:
    """Tell a list of answers, which are texts, from one conversation."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def _lists(row: dict[str, Any], keys: RowSettings, chat: bool) -> list[list[Side]]:
    """Give the several chosen and rejected answers to one prompt that RewardBench 2 and RM-Bench have."""
    return [
        [answered(row, answer, keys, chat) for answer in list_at(row, key)]
        for key in (keys.chosen_key, keys.rejected_key)
    ]


def _response(row: dict[str, Any], keys: RowSettings, chat: bool) -> list[list[Side]]:
    return [[answered(row, value_at(row, keys.response_key), keys, chat)]]


def _messages(row: dict[str, Any]) -> list[list[Side]]:
    return [[as_conversation(as_messages(list_at(row, "messages"), "messages"), "messages")]]


def text_side(text: str, chat: bool) -> Side:
    """Read a whole text; a transcript in hh-rlhf's form becomes messages where messages are rendered.

    Raises:
        RowError: the text has what are no Unicode characters.
    """
    whole = as_text(text, "text")
    return transcript(whole, "text", chat) if is_transcript(whole) else Text("", whole)

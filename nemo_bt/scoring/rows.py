"""A row -> its conversations that get a reward, and the columns that the rewards become."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.detect import columns_seen, detect, parsed
from nemo_bt.data.formats.detect import kind as kind_of_value
from nemo_bt.data.formats.responses import PromptGroup, Side
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.read.chunk import Row
from nemo_bt.data.read.drop_report import RowError, explained
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
        kind: text, messages, response, completions (of one prompt), or pair.
        facts: columns with one value for the whole file, which its name tells.
        form: key of FORMATS.
    """

    sides: Sides
    columns: list[str]
    is_list: bool
    kind: str
    facts: dict[str, str] = field(default_factory=dict)
    form: str = ""

    @property
    def described(self) -> str:
        """Columns and their type, for a message."""
        return f"{' and '.join(self.columns)} of {'lists' if self.is_list else 'numbers'}"

    def of_attribute(self, name: str) -> RowReader:
        """Give a reader whose columns are those of an attribute."""
        return replace(self, columns=[attribute_column(column, name) for column in self.columns])

    def check_new(self, where: str, columns: Container[str]) -> None:
        """Check that there is no such column already; `where` is for the message."""
        for name in self.columns:
            if name in columns:
                raise UserError(f"{where}: has a column '{name}' already. Set score.column to another name.")

    def values(self, rewards: Sequence[Sequence[Reward]]) -> dict[str, Any]:
        """Give a row's new columns from the rewards of each one's conversations; none where it cannot be used."""
        if not rewards:
            return self.facts | dict.fromkeys(self.columns)
        return self.facts | {
            name: list(found) if self.is_list else found[0] for name, found in zip(self.columns, rewards, strict=True)
        }


def attribute_column(column: str, attribute: str) -> str:
    """Name the column of an attribute: reward_chosen is reward_chosen_helpfulness of it."""
    return f"{column}_{attribute}"


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
    names = [f"{column}_chosen", f"{column}_rejected"]
    form = detect(file, rows, replace(keys, ignore_columns=[*keys.ignore_columns, column, *names]), scores=True).name
    first = _first(file, rows, lambda row: parsed(row, 0, form, keys, chat))
    if first.given is None:
        kind = kind_of(form)
        is_list = kind == "completions"
        return RowReader(
            lambda row: _each(parsed(row, 0, form, keys, chat), is_list), [column], is_list, kind, form=form
        )
    found = columns_seen(rows)
    shape = FORMATS[form]
    sides = [keys.named(name) for name in (shape.first, shape.second) if name]
    has_lists = any(kind_of_value(found.get(name)) in ("texts", "conversations") for name in sides)
    is_list = has_lists or bool(shape.second and shape.response)
    return RowReader(lambda row: _pair(parsed(row, 0, form, keys, chat), is_list), names, is_list, "pair", form=form)


def kind_of(form: str) -> str:
    """Name the kind of rows that have no pairs: completions, response, messages or text."""
    shape = FORMATS[form]
    if shape.answers:
        return "completions"
    return "response" if shape.response else {"conversation": "messages"}.get(form, "text")


def _each(group: PromptGroup, is_list: bool) -> list[list[Side]]:
    return [group.sides if is_list else group.sides[:1]]


def _pair(group: PromptGroup, is_list: bool) -> list[list[Side]]:
    """Give the chosen and the rejected sides of a row, each once."""
    pairs = group.given or []
    chosen = [group.sides[side] for side in dict.fromkeys(pair.chosen for pair in pairs)]
    rejected = [group.sides[side] for side in dict.fromkeys(pair.rejected for pair in pairs)]
    return [chosen, rejected] if is_list else [chosen[:1], rejected[:1]]


def _first(file: str, rows: list[Row], parse: Callable[[Row], PromptGroup]) -> PromptGroup:
    """Parse the first row that can be used."""
    reason = "none is there"
    for row in rows:
        try:
            return parse(row)
        except RowError as bad:
            reason = explained(bad.reason, bad.detail)
    raise UserError(f"{file}: none of the first {len(rows)} rows can be used: the last is one {reason}")

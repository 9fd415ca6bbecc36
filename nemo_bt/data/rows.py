"""Parquet files -> rows of chosen, rejected and margin, with every structural mistake named by file and row.

A side is a text or a list of {"role", "content"} messages; the column's type says which.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.errors import UserError

Side = Any
"""str, or list[dict[str, str]] of messages."""

_MESSAGES = "list<struct<role: string, content: string>>"


@dataclass(frozen=True)
class Row:
    """One preference as the file has it."""

    chosen: Side
    rejected: Side
    margin: float
    number: int
    """Row in the file, from 0."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; `margin` is None where no loss term needs it."""

    chosen: str
    rejected: str
    margin: str | None


def find_files(patterns: Sequence[str], setting: str) -> list[str]:
    """Files that the patterns name, sorted within each pattern.

    Raises:
        UserError: a pattern matches no file; `setting` says where it was written.
    """
    files: dict[str, None] = {}  # in order, each once
    for pattern in patterns:
        found = [str(pattern)] if Path(pattern).is_file() else sorted(glob.glob(str(pattern)))
        if not found:
            raise UserError(f"{setting}: no file matches {pattern}. Give an existing parquet file or a glob.")
        files |= dict.fromkeys(found)
    return list(files)


def read_rows(file: str, columns: Columns) -> Iterator[Row]:
    """Rows of one parquet file, a batch in memory at a time.

    Raises:
        UserError: not parquet, no rows, a column missing or of another type, an empty cell, a reply that is not
            the assistant's. Names the file, and the row and column where there is one.
    """
    parquet = _open(file)
    _check_schema(file, parquet.schema_arrow, columns)
    if parquet.metadata.num_rows == 0:
        raise UserError(f"{file}: 0 rows, expected at least one preference pair. Give a file with rows.")
    names = [columns.chosen, columns.rejected] + ([columns.margin] if columns.margin else [])
    number = 0
    try:
        for batch in parquet.iter_batches(batch_size=1024, columns=names):
            table = [batch.column(name).to_pylist() for name in names]
            for cells in zip(*table, strict=True):
                for name, cell in zip(names, cells, strict=True):
                    _check_cell(file, number, name, cell)
                yield Row(cells[0], cells[1], float(cells[2]) if columns.margin else 0.0, number)
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read beyond row {number} ({error}). Write it again.") from error


def is_text(side: Side) -> bool:
    """Whether a side is plain text, not messages."""
    return isinstance(side, str)


def response_of(side: Side) -> str:
    """The text that is judged: the last message, what follows the last "Assistant:" turn, or all of a text."""
    if not is_text(side):
        return str(side[-1]["content"])
    return str(side).rsplit("\n\nAssistant:", 1)[-1]


def _open(file: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{file}: expected a parquet file, found one that cannot be read as such ({error}). "
            "Write it again, or point model.data at a parquet file."
        ) from error


def _check_schema(file: str, schema: pa.Schema, columns: Columns) -> None:
    settings = {columns.chosen: "chosen_key", columns.rejected: "rejected_key", columns.margin: "margin_key"}
    for name, key in settings.items():
        if name is not None and schema.names.count(name) != 1:
            found = "no" if name not in schema.names else f"{schema.names.count(name)} times the"
            raise UserError(
                f"{file}: {found} column '{name}', found {', '.join(schema.names)}. "
                f"Set model.data.{key} to one of these."
            )
    kinds = {name: _kind(schema.field(name).type) for name in (columns.chosen, columns.rejected)}
    for name, kind in kinds.items():
        if kind is None:
            raise UserError(
                f"{file}: column '{name}' has type {schema.field(name).type}, expected string or {_MESSAGES}. "
                f"Convert the column, or set model.data.{settings[name]} to another one."
            )
    if len(set(kinds.values())) > 1:
        raise UserError(f"{file}: columns have different types ({kinds}); make both string or both {_MESSAGES}.")
    if columns.margin is not None:
        margin_type = schema.field(columns.margin).type
        if not (pa.types.is_floating(margin_type) or pa.types.is_integer(margin_type)):
            raise UserError(
                f"{file}: column '{columns.margin}' has type {margin_type}, expected a number. Convert it, set "
                "model.data.margin_key to another column, or turn off model.loss.margin and model.loss.scale."
            )


def _kind(column_type: pa.DataType) -> str | None:
    if pa.types.is_string(column_type) or pa.types.is_large_string(column_type):
        return "text"
    if pa.types.is_list(column_type) or pa.types.is_large_list(column_type):
        item = column_type.value_type
        if pa.types.is_struct(item):
            fields = {item.field(i).name: _kind(item.field(i).type) for i in range(item.num_fields)}
            if fields.get("role") == fields.get("content") == "text":
                return "messages"
    return None


def _check_cell(file: str, number: int, name: str, cell: Any) -> None:
    where = f"{file} row {number} column '{name}'"
    if cell is None:
        raise UserError(f"{where}: empty cell, expected a value. Fill it or remove the row.")
    if isinstance(cell, float | int) and not 0 <= cell < math.inf:
        raise UserError(f"{where}: margin {cell}, expected a finite number of 0 or more. Mend or remove the row.")
    if isinstance(cell, list):
        if any(message is None or message["role"] is None or message["content"] is None for message in cell):
            raise UserError(f"{where}: a message without role or content. Fill it or remove the row.")
        if not cell or cell[-1]["role"] != "assistant":
            last = cell[-1]["role"] if cell else "nothing"
            raise UserError(f"{where}: ends with {last}, expected an assistant message: it is what gets the reward.")

"""Rows as worker processes get them: as bytes, so that they parse them, not the process that reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from nemo_bt.data.read.drop_report import RowError

Row: TypeAlias = "dict[str, Any] | RowError"
"""A row as it stands in the file, or why it cannot be read."""
CHUNK_ROWS = 512
MOST_ROW_BYTES = 16 << 20
"""Bytes of a row: 4 million tokens of text. Much longer ones end `tokenizers`, whose regular expressions abort."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file.

    Args:
        file: its name, for messages.
        first_row: number of the first row in the file, from 0.
        num_rows: rows in the chunk.
        payload: an Arrow stream, the lines of a JSONL file, or rows that are parsed already.
        end_bytes: how far into the stored file the chunk reaches, for the progress bar.
    """

    file: str
    first_row: int
    num_rows: int
    payload: bytes | list[bytes] | list[Row]
    end_bytes: int

    def rows(self) -> list[Row]:
        """Parse the rows."""
        if isinstance(self.payload, bytes):
            return _python_rows(pa.ipc.open_stream(self.payload).read_all())
        return [_parse(line) if isinstance(line, bytes) else line for line in self.payload]


def _python_rows(table: pa.Table) -> list[Row]:
    """Turn rows into dicts; one that has no value in Python is bad, and only that one."""
    try:
        rows: list[Row] = table.to_pylist()
    except UnicodeDecodeError as error:
        if len(table) == 1:
            return [RowError("unicode", str(error)[:200])]
        rows = [row for i in range(len(table)) for row in _python_rows(table.slice(i, 1))]
    return rows


def sampled(chunk: Chunk) -> list[Row]:
    """Parse the rows of a chunk to see what its columns have; a cell of a table that has no value in Python is null."""
    if not isinstance(chunk.payload, bytes):
        return chunk.rows()
    table = pa.ipc.open_stream(chunk.payload).read_all()
    columns = [_cells(column) for column in table.columns]
    return [dict(zip(table.column_names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _cells(column: pa.ChunkedArray) -> list[Any]:
    try:
        found: list[Any] = column.to_pylist()
    except (UnicodeDecodeError, OverflowError, ValueError, pa.ArrowException):
        if len(column) == 1:
            return [None]
        found = [cell for i in range(len(column)) for cell in _cells(column.slice(i, 1))]
    return found


def _parse(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError, MemoryError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return RowError("unreadable", str(error)[:200])
    return row if isinstance(row, dict) else RowError("unreadable", f"found {type(row).__name__}")

"""Files -> chunks of rows -> rows as dicts. A file is never in memory as a whole.

Chunks are what worker processes get: as bytes, so that they parse them, not the process that reads.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.files import DataFile
from nemo_bt.data.read.json_array import BLOCK, elements
from nemo_bt.errors import UserError

Row: TypeAlias = "dict[str, Any] | RowError"
"""A row as it stands in the file, or why it cannot be read."""

_CHUNK_ROWS = 512
_CHUNK_BYTES = 4 << 20


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


def read_chunks(
    file: DataFile, columns: list[str] | None, same_prompt: Callable[[Row, Row], bool] | None
) -> Iterator[Chunk]:
    """Read a file as chunks, in order.

    Args:
        columns: which of a parquet or Arrow file are read; None is all.
        same_prompt: whether two neighbouring rows have to stay in one chunk; None if none have to.

    Raises:
        UserError: the file is not of its kind, or ends in the middle; names the file, and the row where it can.
    """
    readers = {"parquet": _parquet, "arrow": _arrow, "jsonl": _lines, "json": _json}
    number = 0
    try:
        chunks = readers[file.kind](file, columns)
        for chunk in _whole_prompts(chunks, same_prompt) if same_prompt else chunks:
            number = chunk.first_row + chunk.num_rows
            yield chunk
    except UserError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file.name}: expected a whole {file.kind} file, found one that cannot be read beyond row {number} "
            f"({error}). Write it again."
        ) from error


def first_rows(file: DataFile, columns: list[str] | None) -> list[Row]:
    """Read the rows of the first chunk, to see what a file has; an empty file gives none.

    Raises:
        UserError: `read_chunks` raises it.
    """
    return next((chunk.rows() for chunk in read_chunks(file, columns, None)), [])


def column_types(file: DataFile) -> dict[str, str]:
    """Give the types of all columns, where the file says them itself."""
    if file.kind not in ("parquet", "arrow"):
        return {}
    with file.open() as stored:
        if file.kind == "parquet":
            schema = pq.ParquetFile(stored).schema_arrow
        else:
            schema = pa.ipc.open_stream(pa.PythonFile(stored, "r")).schema
    return {column.name: str(column.type) for column in schema}


def _python_rows(table: pa.Table) -> list[Row]:
    """Turn rows into dicts; one that has no value in Python is bad, and only that one."""
    try:
        rows: list[Row] = table.to_pylist()
    except UnicodeDecodeError as error:
        if len(table) == 1:
            return [RowError("unicode", str(error)[:200])]
        rows = [row for i in range(len(table)) for row in _python_rows(table.slice(i, 1))]
    return rows


def _parquet(file: DataFile, columns: list[str] | None) -> Iterator[Chunk]:
    with file.open() as stored:
        parquet = pq.ParquetFile(stored)
        names = parquet.schema_arrow.names
        total = parquet.metadata.num_rows
        _refuse_doubled(file, names)
        wanted = None if columns is None else [name for name in names if name in columns]
        number = 0
        for batch in parquet.iter_batches(_CHUNK_ROWS, columns=wanted, use_threads=False):
            done = file.num_bytes * (number + len(batch)) // total
            yield from _batch(file, batch, number, done)
            number += len(batch)


def _arrow(file: DataFile, columns: list[str] | None) -> Iterator[Chunk]:
    with file.open() as stored:
        reader = pa.ipc.open_stream(pa.PythonFile(stored, "r"))
        _refuse_doubled(file, reader.schema.names)
        number = 0
        for batch in reader:
            wanted = batch if columns is None else batch.select([n for n in batch.schema.names if n in columns])
            yield from _batch(file, wanted, number, stored.tell())
            number += len(batch)


def _refuse_doubled(file: DataFile, names: list[str]) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UserError(f"{file.name}: several columns are called '{doubled[0]}'. Rename or remove all but one.")


def _batch(file: DataFile, batch: pa.RecordBatch, first_row: int, end_bytes: int) -> Iterator[Chunk]:
    """Cut a batch into chunks; only the bytes of its own rows are copied."""
    for start in range(0, len(batch), _CHUNK_ROWS):
        part = pa.Table.from_batches([batch.slice(start, _CHUNK_ROWS)])
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        yield Chunk(file.name, first_row + start, len(part), sink.getvalue(), end_bytes)


def _lines(file: DataFile, columns: list[str] | None = None) -> Iterator[Chunk]:
    lines, stored = file.open_lines()
    with stored:
        yield from _line_chunks(file, lines, stored)


def _line_chunks(file: DataFile, lines: BinaryIO, stored: BinaryIO) -> Iterator[Chunk]:
    payload: list[bytes] = []
    blank: list[bytes] = []
    number = 0
    num_bytes = 0
    for line in lines:
        if not line.strip():
            blank.append(line)  # no row if nothing follows
            continue
        payload += [*blank, line]
        blank = []
        num_bytes += len(line)
        if len(payload) >= _CHUNK_ROWS or num_bytes > _CHUNK_BYTES:
            yield Chunk(file.name, number, len(payload), payload, stored.tell())
            number += len(payload)
            payload = []
            num_bytes = 0
    if payload:
        yield Chunk(file.name, number, len(payload), payload, file.num_bytes)


def _json(file: DataFile, columns: list[str] | None = None) -> Iterator[Chunk]:
    """Read a .json file: an array of objects, or lines of them."""
    lines, stored = file.open_lines()
    with stored:
        text = io.TextIOWrapper(lines, encoding="utf-8")
        start = text.read(BLOCK)
        if not start.lstrip().startswith("["):
            yield from _lines(file)
            return
        payload: list[Row] = []
        number = 0
        for row in elements(start.lstrip()[1:], text):
            payload.append(row if isinstance(row, dict) else RowError("unreadable", ascii(row)[:80]))
            if len(payload) == _CHUNK_ROWS:
                yield Chunk(file.name, number, len(payload), payload, stored.tell())
                number += len(payload)
                payload = []
        if payload:
            yield Chunk(file.name, number, len(payload), payload, file.num_bytes)


def _parse(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return RowError("unreadable", str(error)[:200])
    return row if isinstance(row, dict) else RowError("unreadable", f"found {type(row).__name__}")


def _whole_prompts(chunks: Iterator[Chunk], same_prompt: Callable[[Row, Row], bool]) -> Iterator[Chunk]:
    """Cut chunks again, so that they end where a prompt does; their rows are parsed."""
    held: list[Row] = []
    last = None
    for last in chunks:
        start = last.first_row - len(held)
        rows = held + last.rows()
        cut = len(rows) - 1
        while cut > 0 and same_prompt(rows[cut - 1], rows[cut]):
            cut -= 1
        held = rows[cut:]
        if cut:
            yield Chunk(last.file, start, cut, rows[:cut], last.end_bytes)
    if last is not None and held:
        yield Chunk(last.file, last.first_row + last.num_rows - len(held), len(held), held, last.end_bytes)

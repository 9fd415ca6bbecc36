"""Files -> chunks of rows -> rows as dicts. A file is never in memory as a whole.

Chunks are what worker processes get: as bytes, so that they parse them, not the process that reads.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.data.read.chunk import CHUNK_ROWS, MOST_ROW_BYTES, Chunk, Row, sampled
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.files import DataFile
from nemo_bt.data.read.json_array import BLOCK, elements
from nemo_bt.data.read.tables import arrow_chunks, parquet_chunks, saved_chunks, text_chunks
from nemo_bt.errors import UserError
from nemo_bt.foreign.files import reading

_CHUNK_BYTES = 4 << 20


def read_chunks(
    file: DataFile, columns: list[str] | None, same_prompt: Callable[[Row, Row, int], bool] | None
) -> Iterator[Chunk]:
    """Read a file as chunks, in order.

    Args:
        columns: which of a parquet or Arrow file are read; None is all.
        same_prompt: whether two neighbouring rows, the first of that number, have to stay in one chunk; None if none
            have to.

    Raises:
        UserError: the file is not of its kind, or ends in the middle; names the file, and the row where it can.
    """
    readers = {"parquet": parquet_chunks, "arrow": arrow_chunks, "jsonl": _lines, "json": _json}
    readers |= {"csv": text_chunks, "tsv": text_chunks, "saved": saved_chunks}
    number = 0
    try:
        chunks = readers[file.kind](file, columns)
        for chunk in _whole_prompts(chunks, same_prompt) if same_prompt else chunks:
            number = chunk.first_row + chunk.num_rows
            yield chunk
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
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


def sample_rows(file: DataFile) -> list[Row]:
    """Read the rows of the first chunk with all columns, whatever these hold; an empty file gives none.

    Raises:
        UserError: `read_chunks` raises it.
    """
    return next((sampled(chunk) for chunk in read_chunks(file, None, None)), [])


def column_types(file: DataFile) -> dict[str, str]:
    """Give the types of all columns, where the file says them itself."""
    if file.kind not in ("parquet", "arrow"):
        return {}
    with reading(f"{file.name}: expected a whole {file.kind} file, got ", "Write it again."), file.open() as stored:
        if file.kind == "parquet":
            schema = pq.ParquetFile(stored).schema_arrow
        else:
            schema = pa.ipc.open_stream(pa.PythonFile(stored, "r")).schema
    return {column.name: str(column.type) for column in schema}


def _lines(file: DataFile, columns: list[str] | None = None) -> Iterator[Chunk]:
    lines, stored = file.open_lines()
    with stored:
        yield from _line_chunks(file, lines, stored)


def _line_chunks(file: DataFile, lines: BinaryIO, stored: BinaryIO) -> Iterator[Chunk]:
    payload: list[Any] = []
    number = 0
    num_bytes = 0
    for line in _bounded_lines(lines):
        payload.append(line)
        num_bytes += len(line) if isinstance(line, bytes) else 0
        if len(payload) >= CHUNK_ROWS or num_bytes > _CHUNK_BYTES:
            yield Chunk(file.name, number, len(payload), payload, stored.tell())
            number += len(payload)
            payload = []
            num_bytes = 0
    if payload:
        yield Chunk(file.name, number, len(payload), payload, file.num_bytes)


def _bounded_lines(lines: BinaryIO) -> Iterator[bytes | RowError]:
    """Give the lines that are not blank; of one that is too long no more is held than its start."""
    start = lines.readline(MOST_ROW_BYTES).removeprefix(codecs.BOM_UTF8)
    for line in chain([start], iter(lambda: lines.readline(MOST_ROW_BYTES), b"")):
        if len(line) < MOST_ROW_BYTES or line.endswith(b"\n"):
            if line.strip():
                yield line
            continue
        while (rest := lines.readline(MOST_ROW_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield RowError("unreadable", f"a line of more than {MOST_ROW_BYTES:,} bytes")


def _json(file: DataFile, columns: list[str] | None = None) -> Iterator[Chunk]:
    """Read a .json file: an array of objects, or lines of them."""
    lines, stored = file.open_lines()
    with stored:
        text = io.TextIOWrapper(lines, encoding="utf-8-sig")
        start = text.read(BLOCK)
        if not start.lstrip().startswith("["):
            yield from _lines(file)
            return
        payload: list[Row] = []
        number = 0
        for row in elements(start.lstrip()[1:], text, MOST_ROW_BYTES):
            payload.append(row if isinstance(row, dict) else RowError("unreadable", ascii(row)[:80]))
            if len(payload) == CHUNK_ROWS:
                yield Chunk(file.name, number, len(payload), payload, stored.tell())
                number += len(payload)
                payload = []
        if payload:
            yield Chunk(file.name, number, len(payload), payload, file.num_bytes)


def _whole_prompts(chunks: Iterator[Chunk], same_prompt: Callable[[Row, Row, int], bool]) -> Iterator[Chunk]:
    """Cut chunks again, so that they end where a prompt does; their rows are parsed."""
    held: list[Row] = []
    last = None
    for last in chunks:
        start = last.first_row - len(held)
        rows = held + last.rows()
        cut = len(rows) - 1
        while cut > 0 and same_prompt(rows[cut - 1], rows[cut], start + cut - 1):
            cut -= 1
        held = rows[cut:]
        if cut:
            yield Chunk(last.file, start, cut, rows[:cut], last.end_bytes)
    if last is not None and held:
        yield Chunk(last.file, last.first_row + last.num_rows - len(held), len(held), held, last.end_bytes)

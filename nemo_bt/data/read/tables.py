"""Files with columns -> chunks of rows: parquet, Arrow, CSV, and folders that `datasets` has saved."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nemo_bt.data.read.chunk import CHUNK_ROWS, MOST_ROW_BYTES, Chunk, Row
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.files import DataFile
from nemo_bt.data.read.unpacked import check_unpacked
from nemo_bt.errors import UserError

_MOST_CHUNK_BYTES = 128 << 20
"""Bytes of a column in the rows of a chunk."""


def parquet_chunks(file: DataFile, columns: list[str] | None) -> Iterator[Chunk]:
    """Read a parquet file a batch of rows at a time."""
    with file.open() as stored:
        # what a dictionary holds once is counted for each row before it is written out for each
        parquet = pq.ParquetFile(stored, read_dictionary=_flat_texts(pq.read_schema(stored)))
        _check_pages(file, parquet.metadata)
        names = parquet.schema_arrow.names
        total = parquet.metadata.num_rows
        _refuse_doubled(file, names)
        wanted = None if columns is None else [name for name in names if name in columns]
        number = 0
        for batch in parquet.iter_batches(CHUNK_ROWS, columns=wanted, use_threads=False):
            done = file.num_bytes * (number + len(batch)) // total
            yield from _batch(file, batch, number, done)
            number += len(batch)


def arrow_chunks(file: DataFile, columns: list[str] | None) -> Iterator[Chunk]:
    """Read an Arrow stream, as `datasets` keeps them."""
    with file.open() as stored:
        reader = pa.ipc.open_stream(pa.PythonFile(stored, "r"))
        _refuse_doubled(file, reader.schema.names)
        number = 0
        for batch in reader:
            wanted = batch if columns is None else batch.select([n for n in batch.schema.names if n in columns])
            yield from _batch(file, wanted, number, stored.tell())
            number += len(batch)


def _refuse_doubled(file: DataFile, names: list[str]) -> None:
    doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubled:
        raise UserError(f"{file.name}: several columns are called '{doubled[0]}'. Rename or remove all but one.")


def _flat_texts(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_text(field.type)]


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _check_pages(file: DataFile, metadata: Any) -> None:
    """Check that a parquet file is not far smaller than what it holds.

    Raises:
        UserError: it is.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    check_unpacked(file.name, sum(group.total_byte_size for group in groups), file.num_bytes)


def _batch(file: DataFile, batch: pa.RecordBatch, first_row: int, end_bytes: int) -> Iterator[Chunk]:
    """Cut a batch into chunks; only the bytes of its own rows are copied, and no row is larger than a row may be."""
    for start in range(0, len(batch), CHUNK_ROWS):
        part = _written_out(file, pa.Table.from_batches([batch.slice(start, CHUNK_ROWS)]), first_row + start)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        yield Chunk(file.name, first_row + start, len(part), sink.getvalue(), end_bytes)


def _written_out(file: DataFile, table: pa.Table, first_row: int) -> pa.Table:
    """Give a table without dictionaries, after a look at the bytes that this takes.

    Raises:
        UserError: a row, or all of them, would have too many.
    """
    columns = []
    fields = []
    for field, column in zip(table.schema, table.columns, strict=True):
        texts = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        columns.append(column)
        fields.append(field)
        if not _is_text(texts):
            continue
        if pa.types.is_dictionary(column.type):
            parts = [pc.binary_length(part.dictionary).take(part.indices) for part in column.chunks]
            lengths = pa.chunked_array(parts, type=parts[0].type if parts else pa.int32())
        else:
            lengths = pc.binary_length(column)
        longest, total = pc.max(lengths).as_py() or 0, pc.sum(lengths).as_py() or 0
        if longest > MOST_ROW_BYTES or total > _MOST_CHUNK_BYTES:
            raise UserError(
                f"{file.name}: {field.name} of the {len(table)} rows from {first_row} has {total:,} bytes, and up to "
                f"{longest:,} in a row; expected at most {_MOST_CHUNK_BYTES:,} and {MOST_ROW_BYTES:,}. Shorten them."
            )
        columns[-1] = column.cast(texts)
        fields[-1] = pa.field(field.name, texts, field.nullable)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def text_chunks(file: DataFile, columns: list[str] | None = None) -> Iterator[Chunk]:
    """Read a .csv or .tsv with a line of names, parted by commas or semicolons; an empty cell is null."""
    lines, stored = file.open_lines()
    with stored:
        text = io.TextIOWrapper(lines, encoding="utf-8-sig", newline="")
        csv.field_size_limit(MOST_ROW_BYTES)
        names = text.readline(MOST_ROW_BYTES)
        delimiter = "\t" if file.kind == "tsv" else ";" if names.count(";") > names.count(",") else ","
        reader = csv.DictReader(chain([names], text), delimiter=delimiter, strict=True)
        try:
            _refuse_doubled(file, list(reader.fieldnames or []))
            number = 0
            while payload := [_cells(row) for row in islice(reader, CHUNK_ROWS)]:
                yield Chunk(file.name, number, len(payload), payload, stored.tell())
                number += len(payload)
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error


def _cells(row: dict[Any, Any]) -> Row:
    if None in row or None in row.values():
        return RowError("unreadable", "it has more or fewer cells than the first line has names")
    return {name: cell or None for name, cell in row.items()}


def saved_chunks(file: DataFile, columns: list[str] | None) -> Iterator[Chunk]:
    """Read a folder of `datasets.save_to_disk` as `datasets.load_from_disk` does, selected rows included."""
    from datasets import load_from_disk

    data_set = load_from_disk(file.path).with_format("arrow")
    names = data_set.column_names
    _refuse_doubled(file, names)
    if columns is not None:
        data_set = data_set.select_columns([name for name in names if name in columns])
    number = 0
    for table in data_set.iter(CHUNK_ROWS):
        batch = table.combine_chunks().to_batches()[0]
        done = file.num_bytes * (number + len(batch)) // len(data_set)
        yield from _batch(file, batch, number, done)
        number += len(batch)

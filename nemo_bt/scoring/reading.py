"""Files of rows -> parts of them, each row with its conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath

from nemo_bt.config.score import ScoreRun
from nemo_bt.data.formats.detect import columns_seen
from nemo_bt.data.formats.responses import Side
from nemo_bt.data.read.chunk import Chunk, Row
from nemo_bt.data.read.drop_report import DropReport, RowError
from nemo_bt.data.read.files import DataFile, find_files
from nemo_bt.data.read.rows import first_rows, read_chunks
from nemo_bt.errors import UserError
from nemo_bt.scoring.rows import Reward, RowReader, row_reader


@dataclass
class Part:
    """Rows that are computed together.

    Attributes:
        chunks: chunks of files, each with how its file is read.
        rows: rows of the chunks, as plain data.
        columns: conversations of each row, by new column; a row that cannot be used has none.
        drop_report: rows that cannot be used.
        num_bytes: bytes of the stored files up to the end of the part.
    """

    chunks: list[tuple[RowReader, Chunk]] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)
    columns: list[list[list[Side]]] = field(default_factory=list)
    drop_report: DropReport = field(default_factory=DropReport)
    num_bytes: int = 0

    @property
    def conversations(self) -> list[list[Side]]:
        """Conversations of each row, those of all new columns in one list."""
        return [[side for sides in columns for side in sides] for columns in self.columns]

    @cached_property
    def where(self) -> list[str]:
        """File and row of each conversation."""
        places = [
            f"{chunk.file} row {chunk.first_row + row}" for _, chunk in self.chunks for row in range(chunk.num_rows)
        ]
        return [place for place, sides in zip(places, self.conversations, strict=True) for _ in sides]

    def values(self, rewards: Sequence[Reward]) -> list[dict[str, object]]:
        """Give the new columns of each row from the rewards of the part's conversations, in their order."""
        coming = iter(rewards)
        columns = iter(self.columns)
        return [
            reader.values([[next(coming) for _ in sides] for sides in next(columns)])
            for reader, chunk in self.chunks
            for _ in range(chunk.num_rows)
        ]


def open_files(run: ScoreRun, chat: bool, attributes: Sequence[str] = ()) -> list[tuple[RowReader, DataFile]]:
    """Find the files to score, and how each is read.

    Args:
        chat: whether the tokenizer renders messages.
        attributes: those of the model, which get columns too.

    Raises:
        UserError: a file is missing, this command can score nothing in it, or two files need different columns.
    """
    source = run.source
    files = []
    for file in find_files(source, "score.input"):
        rows = first_rows(file, None)
        if rows:
            reader = row_reader(file.name, rows, source, chat, run.score.column)
            for name in attributes:
                reader.of_attribute(name).check_new(file.name, columns_seen(rows))
            files.append((replace(reader, facts=_facts(run, file, rows)), file))
    if not files:
        raise UserError(f"score.input: {', '.join(source.path)} has no rows.")
    (first, of_first), *others = files
    if run.needs and first.kind not in run.needs:
        raise UserError(f"{of_first.name}: expected rows of {' or '.join(run.needs)}, found {first.kind}.")
    for reader, file in others:
        if (reader.columns, reader.is_list) != (first.columns, first.is_list):
            raise UserError(
                f"{file.name}: its rewards would be {reader.described}, those of {of_first.name} {first.described}. "
                "Score them apart."
            )
    return files


def _facts(run: ScoreRun, file: DataFile, rows: Sequence[Row]) -> dict[str, str]:
    """Give what a file's name tells of its rows, where they do not say it: chat_filtered.json is of domain chat."""
    column, names = run.told_by_name
    if not column or column in columns_seen(rows):
        return {}
    told = next((name for name in names if PurePath(file.name).name.startswith(name)), None)
    return {column: told} if told else {}


def read_parts(files: Sequence[tuple[RowReader, DataFile]], rows_per_part: int, first: int) -> Iterator[Part]:
    """Read parts of at least `rows_per_part` rows, but for the last; every call gives the same parts.

    Args:
        files: files that `open_files` found.
        rows_per_part: fewest rows of a part.
        first: number of the part to begin with; those before it are only counted.

    Raises:
        UserError: a file is not whole, or a row is no object.
    """
    part = Part()
    number = before = 0
    for reader, file in files:
        for chunk in read_chunks(file, None, None):
            part.chunks.append((reader, chunk))
            part.num_bytes = before + chunk.end_bytes
            if sum(chunk.num_rows for _, chunk in part.chunks) >= rows_per_part:
                if number >= first:
                    yield _parsed(part)
                part = Part()
                number += 1
        before += file.num_bytes
    if part.chunks and number >= first:
        yield _parsed(part)


def _parsed(part: Part) -> Part:
    for reader, chunk in part.chunks:
        for number, row in enumerate(chunk.rows(), start=chunk.first_row):
            part.rows.append(_whole(row, reader, f"{chunk.file} row {number}"))
            try:
                part.columns.append(reader.sides(part.rows[-1]))
            except RowError as bad:
                part.columns.append([])
                part.drop_report.drop(bad.reason, f"{chunk.file} row {number}", bad.detail)
    part.drop_report.num_rows = len(part.rows)
    return part


def _whole(row: Row, reader: RowReader, where: str) -> dict[str, object]:
    if isinstance(row, RowError):
        raise UserError(f"{where}: expected an object, found what cannot be written back ({row.detail}). Mend it.")
    reader.check_new(where, row)
    return row

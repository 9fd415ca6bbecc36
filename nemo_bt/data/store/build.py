"""Rows of a source -> the Arrow files of its cache, with every core."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa

from nemo_bt.data.formats.custom import IDS, load_custom
from nemo_bt.data.formats.detect import columns_of, detect
from nemo_bt.data.formats.left_over import is_suspect
from nemo_bt.data.read.chunk import Chunk
from nemo_bt.data.read.drop_report import DropReport
from nemo_bt.data.read.files import DataFile
from nemo_bt.data.read.rows import column_types, read_chunks, sample_rows
from nemo_bt.data.store.encode import encode, encode_ids
from nemo_bt.data.store.records import COLUMNS, Encoded, side_columns, tokens_of_pairs
from nemo_bt.data.store.spec import EncodingSpec
from nemo_bt.data.store.sums import write_sums
from nemo_bt.data.store.workers import WorkerEnded, Workers
from nemo_bt.errors import UserError
from nemo_bt.files import beside, write_atomically
from nemo_bt.observability.terminal import Terminal

TOKENS = "tokens.arrow"
PAIRS = "pairs.arrow"
RESPONSES = "sides.arrow"
ACCOUNT = "account.json"
COLUMN_FILES = (TOKENS, PAIRS, RESPONSES)
FILES = ((ACCOUNT,), COLUMN_FILES)
"""Small files, and large ones."""
_SMALL_CHUNKS = 4
_MB = 1_000_000

Placed: TypeAlias = tuple[int, int, Chunk]
"""Number of the file, bytes of those before it, and a chunk of it."""


def build(
    folder: Path, files: list[DataFile], spec: EncodingSpec, num_workers: int, terminal: Terminal, facts: dict[str, Any]
) -> None:
    """Write the cache of one source into an empty folder.

    Args:
        folder: exists; gets tokens.arrow (one column of ids), pairs.arrow (COLUMNS), sides.arrow (SIDES and
            attributes), account.json, blocks.bin and sums.json.
        spec: has the format that the source asks for, `auto` included.
        terminal: gets a bar of bytes read.
        facts: what the cache is made from, for account.json.

    Raises:
        UserError: a file cannot be read as it is named, formats differ, or a worker was ended.
    """
    spec, chunks, unread = chunks_of(files, spec)
    drop_report = DropReport(unread=unread, unit="prompts" if spec.takes == "answers" else spec.takes)
    num_bytes = sum(file.num_bytes for file in files)
    writer = _Writer(folder, len(spec.attributes))
    try:
        for done_bytes, encoded in _encoded(chunks, spec, num_workers):
            if not drop_report.num_rows:  # the bar has a thread: it starts when all workers are forked
                terminal.start(0, num_bytes // _MB, f"MB of {spec.source.name}")
            writer.write(encoded)
            drop_report.add(encoded.drop_report)
            terminal.advance(done_bytes // _MB, f"{writer.num_pairs:,} pairs")
        writer.close()
    except WorkerEnded as error:
        raise UserError(
            f"a process that tokenises {spec.source.name} was ended, most often for want of memory. Set "
            f"model.data.num_workers below {num_workers}."
        ) from error
    finally:
        terminal.stop()
    names = [file.name for file in files]
    plain = {
        "account": drop_report.to_json(),
        "files": names,
        "format": spec.format,
        "largest_id": writer.largest_id,
        "made_from": facts,
        "most_tokens": writer.most_tokens,
    }
    writer.describe(plain)


def chunks_of(files: list[DataFile], spec: EncodingSpec) -> tuple[EncodingSpec, Iterator[Placed], list[str]]:
    """Give the spec with the format that the rows have, the chunks as they are stored, and the columns not read."""
    if spec.source.custom_cls.name:
        custom = load_custom(spec.source, spec.renderer.tokenizer, spec.limit.tokens, files)
        return replace(spec, format=custom.format), custom.chunks(), []
    form, unread, judged = _format(spec, files)
    spec = replace(spec, format=form, judged=judged)
    late = [column for column in unread if column not in judged and is_suspect(column)]
    return spec, _chunks(files, spec, late), unread


def _format(spec: EncodingSpec, files: list[DataFile]) -> tuple[str, list[str], frozenset[str]]:
    """Find the format of all files, the columns that it does not read, and those that are judged in every file."""
    found = {}
    unread: dict[str, None] = {}
    judged: list[frozenset[str]] = []
    for file in files:
        rows = sample_rows(file)
        if rows:
            detected = detect(file.name, rows, spec.source, column_types(file))
            found[file.name] = detected.name
            unread |= dict.fromkeys(detected.unread)
            judged.append(detected.judged)
    if not found:
        raise UserError(f"{files[0].name}: 0 rows, expected at least one preference. Give a file with rows.")
    name, shape = next(iter(found.items()))
    for other, its in found.items():
        if its != shape:
            raise UserError(
                f"{name} has rows of format {shape}, {other} of format {its}. Expected one format in a source: make "
                "them two sources, or set model.data.format."
            )
    return shape, list(unread), frozenset.intersection(*judged)


def _encoded(chunks: Iterator[Placed], spec: EncodingSpec, num_workers: int) -> Iterator[tuple[int, Encoded]]:
    """Encode chunks in order; each comes with the bytes read up to its end."""
    first = list(islice(chunks, _SMALL_CHUNKS + 1))
    if num_workers == 1 or len(first) <= _SMALL_CHUNKS:  # starting processes would take longer
        for number, start_bytes, chunk in chain(first, chunks):
            yield start_bytes + chunk.end_bytes, _encode(spec, chunk, number)
        return
    with Workers(partial(_encode, spec), num_workers) as workers:
        waiting: deque[tuple[int, Future[Encoded]]] = deque()
        for number, start_bytes, chunk in chain(first, chunks):
            waiting.append((start_bytes + chunk.end_bytes, workers.submit(chunk, number)))
            if len(waiting) > 3 * num_workers:  # bounds what is in memory
                done_bytes, future = waiting.popleft()
                yield done_bytes, future.result()
        for done_bytes, future in waiting:
            yield done_bytes, future.result()


def _chunks(files: list[DataFile], spec: EncodingSpec, late: list[str]) -> Iterator[Placed]:
    same_prompt = spec.same_prompt if spec.joins_rows else None
    columns = columns_of([spec.format], spec.source)
    columns = columns and [*columns, *late]
    start_bytes = 0
    for number, file in enumerate(files):
        for chunk in read_chunks(file, columns, same_prompt):
            yield number, start_bytes, chunk
        start_bytes += file.num_bytes


def _encode(spec: EncodingSpec, chunk: Chunk, file_number: int) -> Encoded:
    return (encode_ids if spec.format == IDS else encode)(chunk, file_number, spec)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say what to do where a folder of the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"model.data.cache_dir: expected a folder with room to write to, got {error} at {folder}. Set another."
        ) from error


class _Writer:
    """Grows one raw file a column, and at the end makes of them Arrow files of a single batch each.

    One batch is one run of memory when it is mapped: any pair is a slice of it.
    """

    def __init__(self, folder: Path, num_attributes: int) -> None:
        self.folder = folder
        self.sides = side_columns(num_attributes)
        self.num_tokens = 0
        self.num_prompts = 0
        self.num_pairs = 0
        self.num_sides = 0
        self.largest_id = 0
        self.most_tokens = 0
        names = ("token", *COLUMNS, *self.sides)
        self._raw: dict[str, BinaryIO] = {name: self._path(name).open("wb") for name in names}

    def write(self, encoded: Encoded) -> None:
        """Append a chunk.

        Raises:
            UserError: the disk does not take it. The other methods raise it too.
        """
        with writing_to(self.folder):
            self._append(encoded)

    def _append(self, encoded: Encoded) -> None:
        shifts = {"prefix_start": self.num_tokens, "start": self.num_tokens}
        shifts |= {"prompt": self.num_prompts, "first_side": self.num_sides}
        self._raw["token"].write(encoded.tokens.astype(np.int32).tobytes())
        for name, values in (encoded.columns | encoded.sides).items():
            self._raw[name].write((values + values.dtype.type(shifts[name]) if name in shifts else values).tobytes())
        self.largest_id = max(self.largest_id, int(encoded.tokens.max(initial=0)))
        tokens_N = tokens_of_pairs(
            encoded.columns["prefix_tokens"], encoded.columns["first_side"], encoded.sides["tokens"]
        )
        self.most_tokens = max(self.most_tokens, int(tokens_N.max(initial=0)))
        self.num_tokens += len(encoded.tokens)
        self.num_prompts += encoded.num_prompts
        self.num_pairs += len(encoded.columns["row"])
        self.num_sides += len(encoded.sides["start"])

    def close(self) -> None:
        """Write the Arrow files, to the disk itself."""
        with writing_to(self.folder):
            for raw in self._raw.values():
                raw.close()
            self._arrow(TOKENS, {"token": np.int32})
            self._arrow(PAIRS, COLUMNS)
            self._arrow(RESPONSES, self.sides)

    def describe(self, plain: dict[str, Any]) -> None:
        """Write account.json and the digests of all, to the disk itself."""
        with writing_to(self.folder):
            write_atomically(self.folder / ACCOUNT, json.dumps(plain, indent=2) + "\n")
            write_sums(self.folder, *FILES)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.raw"

    def _arrow(self, name: str, columns: dict[str, Any]) -> None:
        arrays = [pa.array(self._mapped(column, kind)) for column, kind in columns.items()]
        batch = pa.record_batch(arrays, names=list(columns))
        options = pa.ipc.IpcWriteOptions(allow_64bit=True)
        with (
            beside(self.folder / name) as unfinished,
            unfinished.open("wb") as file,
            pa.ipc.new_file(file, batch.schema, options=options) as writer,
        ):
            writer.write_batch(batch)
        for column in columns:
            self._path(column).unlink()

    def _mapped(self, column: str, kind: Any) -> Any:
        path = self._path(column)
        return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.empty(0, dtype=kind)

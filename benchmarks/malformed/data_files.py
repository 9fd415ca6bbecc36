"""Malformed files of preferences."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.malformed.cases import CONTENTS, KINDS, VALUES, Case, Inputs, cut_to, damaged

_ROWS = [{"prompt": f"tea {n}", "chosen": f"I bring {n}.", "rejected": "No."} for n in range(20)]
_DEEP: Any = "a"
for _ in range(500):
    _DEEP = [_DEEP]


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def _repeated(value: str, rows: int) -> pa.Table:
    return _alike(pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value])))


def _alike(column: pa.Array) -> pa.Table:
    return pa.table(dict.fromkeys(_ROWS[0], column))


def _with(chosen: str) -> list[dict[str, Any]]:
    return [*_ROWS, {**_ROWS[0], "chosen": chosen}]


_TABLE = pa.Table.from_pylist(_ROWS)
WHOLE: dict[str, bytes] = {
    "rows.jsonl": _lines(_ROWS),
    "rows.json": json.dumps(_ROWS).encode(),
    "rows.parquet": _parquet(_TABLE),
    "rows.arrow": _arrow(_TABLE),
    "rows.csv": _csv(_ROWS),
    "rows.jsonl.gz": gzip.compress(_lines(_ROWS)),
    "rows.jsonl.zst": _zstd(_lines(_ROWS)),
}
_LONG = "a" * (50 << 20)
_ANSWERS = '"chosen": "a", "rejected": "b"'
HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a line of 50 MB": ("rows.jsonl", lambda: _lines(_with(_LONG))),
    "a line of 50 MB of words": ("rows.jsonl", lambda: _lines(_with("tea " * (12 << 20)))),
    "a line of 50 MB without spaces": ("rows.jsonl", lambda: _lines(_with("é" * (25 << 20)))),
    "an element of 50 MB": ("rows.json", lambda: json.dumps(_with(_LONG)).encode()),
    "an array without end": ("rows.json", lambda: b"[" + b" " * (60 << 20)),
    "a cell of 50 MB": ("rows.csv", lambda: _csv(_with(_LONG))),
    "a cell of 50 MB, parquet": ("rows.parquet", lambda: _parquet(pa.Table.from_pylist(_with(_LONG)))),
    "a line without end": ("rows.jsonl", lambda: b"x" * (300 << 20)),
    "lines of nothing": ("rows.jsonl", lambda: b"\n" * (20 << 20)),
    "a bomb of gzip": ("rows.jsonl.gz", lambda: gzip.compress(bytes(1 << 30), 1) * 8),
    "a bomb of gzip, lines": ("rows.jsonl.gz", lambda: gzip.compress(b"{}\n" * (100 << 20), 1) * 4),
    "a bomb of zstd": ("rows.jsonl.zst", lambda: _zstd(bytes(1 << 30)) * 8),
    "a bomb of gzip, csv": ("rows.csv.gz", lambda: gzip.compress(b"a,b\n" + bytes(1 << 30), 1) * 4),
    "a bomb of a dictionary": ("rows.parquet", lambda: _parquet(_repeated("a" * (1 << 20), 200_000))),
    "a bomb of a long dictionary": ("rows.parquet", lambda: _parquet(_repeated("a" * (40 << 20), 50_000))),
    "a bomb of a dictionary, arrow": ("rows.arrow", lambda: _arrow(_repeated("a" * (1 << 20), 200_000))),
    "many columns": ("rows.parquet", lambda: _parquet(pa.table({f"c{n}": ["a"] for n in range(20_000)}))),
    "many keys": ("rows.jsonl", lambda: _lines([{f"k{n}": n for n in range(200_000)}] * 3)),
    "many nulls": ("rows.parquet", lambda: _parquet(pa.table({"chosen": pa.nulls(50_000_000, pa.string())}))),
    "a column of null type": ("rows.parquet", lambda: _parquet(_alike(pa.nulls(5)))),
    "a column twice": ("rows.jsonl", lambda: f'{{"prompt": "x", {_ANSWERS}, "chosen": "c"}}\n'.encode() * 9),
    "large strings": ("rows.parquet", lambda: _parquet(_alike(pa.array(["a"] * 5, pa.large_string())))),
    "binary columns": ("rows.parquet", lambda: _parquet(_alike(pa.array([b"\xff\xfe"] * 4)))),
    "dates": ("rows.parquet", lambda: _parquet(_alike(pa.array([2**40] * 4, pa.timestamp("s"))))),
    "deep lists": ("rows.jsonl", lambda: _lines([{**row, "chosen": _DEEP} for row in _ROWS])),
    "deep text": ("rows.jsonl", lambda: _lines([{**row, "chosen": "[" * 100_000} for row in _ROWS])),
    "deep text of turns": ("rows.jsonl", lambda: _lines([{**row, "chosen": "[{'a':" * 5_000} for row in _ROWS])),
    "a sum as text": ("rows.jsonl", lambda: _lines([{**row, "chosen": "[" + "-" * 90_000 + "1]"} for row in _ROWS])),
    "a bare row": ("rows.jsonl", lambda: b"1\n" * 40),
    "surrogates": ("rows.jsonl", lambda: b'{"prompt": "\\ud800", "chosen": "\\udc00a", "rejected": "b"}\n' * 9),
    "NULs": ("rows.jsonl", lambda: b'{"prompt": "\\u0000", "chosen": "\\u0000a", "rejected": "b"}\n' * 9),
    "CSV of one quote": ("rows.csv", lambda: b'prompt,chosen,rejected\n"a,b,c\n' + b"a,b,c\n" * 100),
    "CSV of 100,000 names": ("rows.csv", lambda: b",".join(b"n%d" % n for n in range(100_000)) + b"\n1\n"),
}  # fmt: skip
"""Files that are large when they are read, or look like what they are not."""


def cases(inputs: Inputs) -> Iterator[Case]:
    """Give about 250 of them."""

    def written(name: str, make: Callable[[], bytes]) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            (folder / name).write_bytes(make())
            return folder / name

        return write

    def then(name: str, content: bytes, change: Callable[[Path], None]) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            (folder / name).write_bytes(content)
            change(folder / name)
            return folder / name

        return write

    yield Case("untouched", written("rows.jsonl", lambda: WHOLE["rows.jsonl"]))
    for name, content in WHOLE.items():
        for what, other in CONTENTS.items():
            yield Case(f"{name} {what}", written(name, lambda c=other: c))
        for what, change in KINDS.items():
            yield Case(f"{name} {what}", then(name, content, change))
        for part in (0.1, 0.6, 0.97):
            yield Case(f"{name} cut to {part}", then(name, content, cut_to(part)))
            yield Case(f"{name} damaged at {part}", then(name, content, damaged(part)))
    for field in ("prompt", "chosen"):
        for what, value in VALUES.items():
            rows = [{k: v for k, v in {**row, field: value}.items() if v is not VALUES["missing"]} for row in _ROWS]
            yield Case(f"jsonl {field} {what}", written("rows.jsonl", lambda r=rows: _lines(r)))
    for what, (name, make) in HOSTILE.items():
        yield Case(what, written(name, make))

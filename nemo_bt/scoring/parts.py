"""Parts of an output that is being written. They lie beside it; the output gets its name when it is whole."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from contextlib import suppress
from datetime import date, timedelta
from datetime import time as dtime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.data.read.drop_report import DropReport
from nemo_bt.errors import UserError
from nemo_bt.files import put_in_place, write_atomically

_IDENTITY = "of.json"


class Parts:
    """Parts of one output.

    Args:
        output: a .jsonl or .parquet file.

    Attributes:
        folder: folder of the parts, `<output>.unfinished`.

    Raises:
        UserError: the output's name has another ending.
    """

    def __init__(self, output: Path) -> None:
        if output.suffix not in (".jsonl", ".parquet"):
            raise UserError(f"score.output: expected a name that ends in .jsonl or .parquet, got {output}.")
        self.output = output
        self.folder = output.with_name(f"{output.name}.unfinished")

    @property
    def is_table(self) -> bool:
        """Whether the output is a table."""
        return self.output.suffix == ".parquet"

    def begin(self, identity: dict[str, Any]) -> int:
        """Count the parts, from the first on, that an earlier start with this identity (input, model, rules) has done.

        Raises:
            UserError: the parts belong to another output.
        """
        before = _read(self.folder / _IDENTITY)
        if before is None:  # nothing that is known to be whole
            for part in self.folder.glob("[0-9]*"):
                part.unlink()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / _IDENTITY, json.dumps(identity, indent=1, sort_keys=True).encode())
        elif before != json.loads(json.dumps(identity)):
            raise UserError(
                f"{self.folder} has parts of another output: {_changed(before, identity)} changed. Remove it, or "
                "choose another score.output."
            )
        return len(self._there())

    def is_done(self, identity: dict[str, Any]) -> bool:
        """Tell whether the output is there already, for a command that goes on from it.

        Raises:
            UserError: the output that is there was made from something else.
        """
        if not self.output.exists():
            return False
        before = _read(self._note)
        if before != json.loads(json.dumps(identity)):
            what = f"made from others: {_changed(before, identity)} changed" if before else "not known"
            raise UserError(f"{self.output} is there already, and {what}. Remove it, or choose another name.")
        return True

    def write_lines(self, number: int, rows: list[dict[str, Any]], drop_report: DropReport) -> None:
        """Write a part of a .jsonl, with what became of its conversations."""
        write_atomically(self._account(number), json.dumps(drop_report.to_json()).encode())
        write_atomically(self._part(number), b"".join(map(_line, rows)))

    def write_table(self, number: int, table: pa.Table, drop_report: DropReport) -> None:
        """Write a part of a .parquet, with what became of its conversations."""
        write_atomically(self._account(number), json.dumps(drop_report.to_json()).encode())
        sink = io.BytesIO()
        pq.write_table(table, sink)
        write_atomically(self._part(number), sink.getvalue())

    def finish(self, keeps_identity: bool) -> DropReport:
        """Join the parts, give the output its name, remove the parts, and report on all conversations.

        `keeps_identity` leaves a note beside the output, for `is_done`.
        """
        unfinished = self.folder / "unfinished"
        drop_report = DropReport()
        parts = self._there()
        for number in range(len(parts)):
            drop_report.add(DropReport.from_json(json.loads(self._account(number).read_text())))
        if self.is_table:
            with pq.ParquetWriter(unfinished, pq.read_schema(parts[0])) as writer:
                for part in parts:
                    writer.write_table(pq.read_table(part))
        else:
            with unfinished.open("wb") as joined:
                for part in parts:
                    with part.open("rb") as opened:
                        shutil.copyfileobj(opened, joined)
        if keeps_identity:
            write_atomically(self._note, (self.folder / _IDENTITY).read_bytes())
        put_in_place(unfinished, self.output)
        shutil.rmtree(self.folder, ignore_errors=True)  # on a file server other ranks' logs may still be open
        return drop_report

    @property
    def _note(self) -> Path:
        return self.output.with_name(f"{self.output.name}.{_IDENTITY}")

    def _account(self, number: int) -> Path:
        return self.folder / f"{number:06d}.account.json"

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}{self.output.suffix}"

    def _there(self) -> list[Path]:
        return list(itertools.takewhile(Path.exists, map(self._part, itertools.count())))


def _line(row: dict[str, Any]) -> bytes:
    try:
        return f"{json.dumps(row, ensure_ascii=False, default=_plain)}\n".encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can name and UTF-8 cannot hold
        return f"{json.dumps(row, default=_plain)}\n".encode()


def _plain(value: object) -> str:
    """Write a value that a table can hold and for which JSON has no form."""
    if isinstance(value, date | dtime):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise UserError(f"score.output: a value of type {type(value).__name__} has no form in JSON. Choose a .parquet.")


def _changed(before: dict[str, Any], identity: dict[str, Any]) -> str:
    now = json.loads(json.dumps(identity))
    return ", ".join(sorted(key for key in now if now[key] != before.get(key)))


def _read(note: Path) -> dict[str, Any] | None:
    """Read a note; None where it is missing or not whole."""
    with suppress(OSError, ValueError):
        return dict(json.loads(note.read_text()))
    return None

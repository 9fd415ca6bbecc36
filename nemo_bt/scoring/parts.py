"""What is written so far, in parts beside the output; the output has its name when it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.errors import UserError

_IDENTITY = "of.json"


class Parts:
    """Parts of one output.

    Args:
        output: a .jsonl or .parquet file.

    Attributes:
        folder: that they lie in, `<output>.unfinished`.

    Raises:
        UserError: a name of another kind.
    """

    def __init__(self, output: Path) -> None:
        if output.suffix not in (".jsonl", ".parquet"):
            raise UserError(f"score.output: expected a name that ends in .jsonl or .parquet, got {output}.")
        self.output, self.folder = output, output.with_name(f"{output.name}.unfinished")

    def make_folder(self) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"score.output: expected a place to write to, got {error}.") from error

    @property
    def is_table(self) -> bool:
        """Whether the output is one."""
        return self.output.suffix == ".parquet"

    def begin(self, identity: dict[str, Any]) -> list[Path]:
        """Find what an earlier start has done.

        Args:
            identity: of input, model and rules.

        Returns:
            The parts that are there, from the first on.

        Raises:
            UserError: they are of another output.
        """
        note, text = self.folder / _IDENTITY, json.dumps(identity, indent=1, sort_keys=True)
        if not note.exists():
            _write(note, text.encode())
        elif note.read_text() != text:
            before = json.loads(note.read_text())
            changed = ", ".join(sorted(key for key in identity if identity[key] != before.get(key)))
            raise UserError(
                f"{self.folder} has parts of another output: {changed} changed. Remove it, or choose another "
                "score.output."
            )
        return list(self._there())

    def write_lines(self, number: int, rows: list[dict[str, Any]]) -> None:
        """One part of a .jsonl."""
        _write(self._part(number), b"".join(map(_line, rows)))

    def write_table(self, number: int, table: pa.Table) -> None:
        """One part of a .parquet."""
        unfinished = self.folder / "unfinished"
        pq.write_table(table, unfinished)
        unfinished.replace(self._part(number))

    def finish(self) -> None:
        """Join the parts, give the output its name, and remove them."""
        unfinished = self.folder / "unfinished"
        parts = list(self._there())
        if self.is_table:
            schema = pa.unify_schemas([pq.read_schema(part) for part in parts])
            with pq.ParquetWriter(unfinished, schema) as writer:
                for part in parts:
                    writer.write_table(pq.read_table(part).cast(schema))
        else:
            with unfinished.open("wb") as joined:
                for part in parts:
                    with part.open("rb") as opened:
                        shutil.copyfileobj(opened, joined)
        unfinished.replace(self.output)
        shutil.rmtree(self.folder)

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}{self.output.suffix}"

    def _there(self) -> Iterator[Path]:
        number = 0
        while (part := self._part(number)).exists():
            yield part
            number += 1


def _line(row: dict[str, Any]) -> bytes:
    try:
        return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can name and UTF-8 cannot hold
        return f"{json.dumps(row)}\n".encode()


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name("unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)

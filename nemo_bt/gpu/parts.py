"""A folder as one xz-compressed tar, cut into files of limited size. The same folder gives the same bytes."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

_PRESET = 3
"""On Transformer Engine's library, 468 MB, preset 6 takes half as long again for 8 % less."""


@dataclass(frozen=True)
class Part:
    """A file of a pack."""

    name: str
    size: int
    sha256: str


class PartWriter:
    """A file to write to, of any length, that becomes part-000, part-001, ..."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.parts: list[Part] = []
        self.whole = hashlib.sha256()
        self._folder, self._limit = folder, limit_bytes
        self._file: Any = None
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Append; a part ends where it has its limit."""
        self.whole.update(data)
        rest = memoryview(data)
        while rest:
            if self._file is None:
                self._file = (self._folder / f"part-{len(self.parts):03d}").open("xb")
                self._hash = hashlib.sha256()
            piece = rest[: self._limit - self._file.tell()]
            self._file.write(piece)
            self._hash.update(piece)
            rest = rest[len(piece) :]
            if self._file.tell() == self._limit:
                self.close()
        return len(data)

    def close(self) -> None:
        """End the last part."""
        if self._file is not None:
            self.parts.append(Part(Path(self._file.name).name, self._file.tell(), self._hash.hexdigest()))
            self._file.close()
            self._file = None


def write_parts(tree: Path, folder: Path, limit_bytes: int) -> PartWriter:
    """Write a folder's files into parts.

    Args:
        tree: to pack: folders and files, in the order of their names, without owner and time.
        folder: for the parts; it has none yet.
        limit_bytes: largest size of a part.

    Returns:
        The writer, with `parts` and the digest of the `whole`.
    """
    writer = PartWriter(folder, limit_bytes)
    with (
        lzma.open(cast("IO[bytes]", writer), "wb", preset=_PRESET) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for path in sorted(tree.rglob("*")):
            entry = tar.gettarinfo(path, path.relative_to(tree).as_posix())
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            if entry.isreg():
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    writer.close()
    return writer

"""Paths, globs, URLs and ids of the hub -> files that can be opened, and a digest of what is in them.

Every file system is fsspec's; one that only pyarrow knows is wrapped as one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from nemo_bt.config.data import SourceSettings
from nemo_bt.data.read.hub import arrow_files
from nemo_bt.data.read.saved import check_alone, parts_of, saved_folder
from nemo_bt.data.read.unpacked import Unpacked
from nemo_bt.errors import UserError
from nemo_bt.files import write_atomically
from nemo_bt.foreign.files import check_file

_KINDS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".arrow": "arrow"}
_KINDS |= {".csv": "csv", ".tsv": "tsv"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_REMOTE_DIGESTS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "sha256")
_SETTLED_S = 2.0


@dataclass(frozen=True)
class DataFile:
    """One file of preferences.

    Args:
        path: its place in the file system.
        name: the path or URL that messages show.
        file_system: one of fsspec's.
        parts: the files of a saved data set, where `path` is its folder.
    """

    path: str
    name: str
    file_system: Any
    parts: tuple[str, ...] = ()

    @cached_property
    def kind(self) -> str:
        """One of parquet, jsonl, json, csv, tsv, arrow, as the name says; saved is a folder of `datasets`.

        Raises:
            UserError: the name ends in nothing that is known.
        """
        if self.parts:
            return "saved"
        suffixes = [suffix for suffix in Path(self.path).suffixes if suffix not in _COMPRESSIONS]
        if not suffixes or suffixes[-1] not in _KINDS:
            raise UserError(
                f"{self.name}: expected a name that ends in {', '.join(_KINDS)}, with or without "
                f"{' or '.join(_COMPRESSIONS)}. Rename the file, or convert it."
            )
        return _KINDS[suffixes[-1]]

    @property
    def is_local(self) -> bool:
        """Whether the path is one of this machine."""
        protocol = self.file_system.protocol
        return "file" in ([protocol] if isinstance(protocol, str) else protocol)

    @property
    def identity(self) -> str:
        """A text that is the same for the same file, however its path was written."""
        return os.path.realpath(self.path) if self.is_local else self.name

    @property
    def compression(self) -> str | None:
        """Gzip or zstd, as the name says."""
        return _COMPRESSIONS.get(Path(self.path).suffix)

    @cached_property
    def num_bytes(self) -> int:
        """Size as stored."""
        return sum(int(self.file_system.size(path) or 0) for path in self.parts or (self.path,))

    @property
    def changed(self) -> list[str]:
        """What tells a file from what it is after a change: its times, or what its file system has for it."""
        if self.is_local:
            stats = [os.stat(path) for path in self.parts or (self.path,)]
            return [str(fact) for found in stats for fact in (found.st_mtime_ns, found.st_ino)]
        about = self.file_system.info(self.path)
        return [str(about[name]) for name in _REMOTE_DIGESTS if about.get(name)]

    def open(self) -> BinaryIO:
        """Open the stored bytes.

        Raises:
            UserError: they are not there any more, or not readable.
        """
        if self.is_local:
            check_file(self.path, "Give a file that can be read.")
        try:
            opened: BinaryIO = self.file_system.open(self.path, "rb")
        except OSError as error:
            raise UserError(f"{self.name}: cannot be opened ({error}). Give a file that can be read.") from error
        return opened

    def open_lines(self) -> tuple[BinaryIO, BinaryIO]:
        """Open the bytes without their compression, and the stored bytes, whose position tells how far reading is."""
        stored = self.open()
        kind = self.compression
        unpacked = pa.CompressedInputStream(pa.PythonFile(stored, "r"), kind) if kind else stored
        return io.BufferedReader(Unpacked(self.name, unpacked, stored), 1 << 20), stored


def find_files(source: SourceSettings, setting: str) -> list[DataFile]:
    """Find the files of a source, sorted within each glob, each once.

    Args:
        source: has paths, or one id of a data set of the hub with split, subset and revision.
        setting: tells in messages where the source was written.

    Raises:
        UserError: a path matches no file, a protocol is not known, the hub has no such data set.
    """
    files: dict[str, DataFile] = {}
    for path in source.path:
        if _is_hub_id(path):
            local, _ = _file_system("/", path)
            found = [DataFile(name, name, local) for name in arrow_files(path, source)]
        else:
            found = _matching(path, setting, source.split)
        files |= {file.identity: file for file in found}
    return list(files.values())


def _matching(path: str, setting: str, split: str) -> list[DataFile]:
    file_system, inner = _file_system(path, setting)
    try:
        if file_system.isfile(inner):
            check_alone(Path(inner), path, setting)
            return [DataFile(inner, path, file_system)]
        is_folder = file_system.isdir(inner)
        if is_folder and (saved := saved_folder(Path(inner), path, setting, split)):
            return [DataFile(str(saved), path, file_system, parts_of(saved))]
        found = [] if is_folder else sorted(match for match in file_system.glob(inner) if file_system.isfile(match))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{setting}: {path} cannot be looked up ({error}).") from error
    if not found:
        ends = map(_ending, map(str, file_system.ls(inner, detail=False) if is_folder else []))
        end = [*Counter(filter(None, ends)).most_common(1), (".parquet", 0)][0][0]
        what = f"{path} is a folder; give {path.rstrip('/')}/*{end}" if is_folder else f"no file matches {path}"
        raise UserError(f"{setting}: {what}. Expected a file or a glob, a URL, or organisation/name of a hub.")
    protocol = path.split("://")[0] + "://" if "://" in path else ""
    for match in found:
        check_alone(Path(match), path, setting)
    return [DataFile(match, protocol + match, file_system) for match in found]


def _ending(name: str) -> str | None:
    """Give the suffix of a file that can be read, with that of its compression: .jsonl.gz."""
    suffixes = Path(name).suffixes
    return "".join(suffixes[-1 - (suffixes[-1] in _COMPRESSIONS) :]) if _KINDS.keys() & set(suffixes) else None


def _file_system(path: str, setting: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs
    from fsspec.implementations.arrow import ArrowFSWrapper

    try:
        file_system, inner = url_to_fs(path if "://" in path else os.path.expanduser(path))
    except (ImportError, ValueError) as missing:  # fsspec has no package for it; pyarrow may have
        try:
            arrow, inner = pa.fs.FileSystem.from_uri(path)
        except (pa.ArrowException, ValueError, OSError, NotImplementedError) as error:
            raise UserError(f"{setting}: {path} has a protocol that cannot be read ({missing}; {error}).") from error
        file_system = ArrowFSWrapper(arrow)
    return file_system, inner


def _is_hub_id(path: str) -> bool:
    parts = path.split("/")
    looks_like = len(parts) == 2 and all(parts) and not any(char in path for char in "*?[:~")
    return looks_like and Path(path).suffix not in {*_KINDS, *_COMPRESSIONS} and not Path(path).exists()


def digest_of(files: Sequence[DataFile], memory: Path) -> str:
    """Compute the SHA-256 of the contents of files, in order; their names do not count.

    A local file that has not changed is not read again: its digest is remembered beside its inode, size and times of
    change, which a program cannot set back. A remote file counts by its ETag or checksum where its file system has
    one, else it is read.

    Args:
        memory: folder for the remembered digests.
    """
    return hashlib.sha256("\n".join(_digest(file, memory) for file in files).encode()).hexdigest()


def _digest(file: DataFile, memory: Path) -> str:
    if not file.is_local:
        known_by = file.changed
        return f"{file.name} {known_by[0]}" if known_by else _digest_of_contents(file)
    if file.parts:
        parts = [DataFile(path, path, file.file_system) for path in file.parts]
        return hashlib.sha256("\n".join(_digest(part, memory) for part in parts).encode()).hexdigest()
    found = os.stat(file.path)
    stat = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    note = memory / f"{hashlib.sha256(os.path.realpath(file.path).encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(note.read_text())
        if known["stat"] == stat:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or written by another version
    digest = _digest_of_contents(file)
    if time.time() - found.st_ctime > _SETTLED_S:  # a later change within the clock's grain would look the same
        with suppress(OSError):  # a cache that may only be read serves as well
            memory.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps({"stat": stat, "digest": digest}), has_rivals=True)
    return digest


def _digest_of_contents(file: DataFile) -> str:
    digest = hashlib.sha256()
    with file.open() as opened:
        while block := opened.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()

"""Checksums of what a folder of the cache holds: a bit that turns on the disk would be another token, or another pair.

Large files have one for each block of 16 KiB, so that what is read of them can be checked, and nothing else be read.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemo_bt.files import write_atomically

SUMS = "sums.json"
BLOCKS = "blocks.bin"
BLOCK_BYTES = 1 << 14
AT_ONCE_BYTES = 4 << 30
"""So many bytes are read within a second or two. Files of more are checked as they are used."""
_END_BLOCKS = 4
_READ_BLOCKS = 64


def write_sums(folder: Path, plain: Iterable[str], blocked: Sequence[str]) -> None:
    """Write checksums of the named files beside them, to the disk itself.

    Args:
        plain: small files, each of which gets one SHA-256.
        blocked: large ones, with a CRC-32 a block, little-endian, in blocks.bin.
    """
    sums = np.fromiter((block_sum(block) for name in blocked for block in _blocks(folder / name)), dtype="<u4")
    write_atomically(folder / BLOCKS, sums.tobytes())
    about: dict[str, Any] = {name: _sha256(folder / name) for name in (*plain, BLOCKS)}
    about |= {name: (folder / name).stat().st_size for name in blocked}
    write_atomically(folder / SUMS, json.dumps(about, indent=2) + "\n")


def damage(folder: Path, plain: Iterable[str], blocked: Sequence[str]) -> str | None:
    """Say which of the named files is not as it was written; None where all are.

    Of large files that have more than AT_ONCE_BYTES together, only 64 KiB at each end are read: Arrow keeps there what
    they hold.
    """
    try:
        sums = json.loads((folder / SUMS).read_text())
        changed = [name for name in (*plain, BLOCKS) if sums[name] != _sha256(folder / name)]
        changed += [name for name in blocked if sums[name] != (folder / name).stat().st_size]
        if not changed:
            known = dict(zip(blocked, block_sums(folder, blocked), strict=True))
            all_at_once = sum(sums[name] for name in blocked) <= AT_ONCE_BYTES
            changed = [name for name in blocked if _differs(folder / name, known[name], all_at_once)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder} is not whole ({error!r})"
    return f"{folder / changed[0]} has other contents than were written" if changed else None


def block_sums(folder: Path, blocked: Sequence[str]) -> list[Any]:
    """Read the checksums of the blocks of each large file, [blocks] each."""
    counts = [-(-(folder / name).stat().st_size // BLOCK_BYTES) for name in blocked]
    sums = np.frombuffer((folder / BLOCKS).read_bytes(), dtype="<u4")
    return np.split(sums, np.cumsum(counts)[:-1])


def block_sum(block: Any) -> int:
    """Compute the checksum of the bytes of one block."""
    return zlib.crc32(block)


def note_damage(file: Path, block: int, known: int) -> None:
    """Have whoever opens the folder next take one of its large files for damaged, if the block differs there too.

    It need not: the cache may have been made again since the file was opened.

    Raises:
        OSError: the folder is gone, or cannot be written.
    """
    with file.open("rb") as opened:
        opened.seek(block * BLOCK_BYTES)
        if block_sum(opened.read(BLOCK_BYTES)) == known:
            return
    sums = json.loads((file.parent / SUMS).read_text())
    write_atomically(file.parent / SUMS, json.dumps(sums | {file.name: 0}, indent=2) + "\n", has_rivals=True)


def _blocks(file: Path) -> Iterable[memoryview]:
    with file.open("rb") as opened:
        while read := memoryview(opened.read(_READ_BLOCKS * BLOCK_BYTES)):
            for start in range(0, len(read), BLOCK_BYTES):
                yield read[start : start + BLOCK_BYTES]


def _differs(file: Path, sums: Any, whole: bool) -> bool:
    if whole:
        return bool([block_sum(block) for block in _blocks(file)] != sums.tolist())
    with file.open("rb") as opened:
        for number in {*range(len(sums))[:_END_BLOCKS], *range(len(sums))[-_END_BLOCKS:]}:
            opened.seek(number * BLOCK_BYTES)
            if block_sum(opened.read(BLOCK_BYTES)) != int(sums[number]):
                return True
    return False


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

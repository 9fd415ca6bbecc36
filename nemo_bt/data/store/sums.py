"""Digests of what a folder of the cache holds: a bit that turns on the disk would be another token, or another pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from nemo_bt.files import write_atomically

SUMS = "sums.json"


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the SHA-256 of the named files beside them, to the disk itself."""
    write_atomically(folder / SUMS, json.dumps({name: _sha256(folder / name) for name in names}, indent=2) + "\n")


def damage(folder: Path, names: Iterable[str]) -> str | None:
    """Say which of the named files is not as it was written, by reading them; None where all are."""
    try:
        sums = json.loads((folder / SUMS).read_text())
        changed = next((folder / name for name in names if sums[name] != _sha256(folder / name)), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder} is not whole ({error!r})"
    return f"{changed} has other contents than were written" if changed else None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

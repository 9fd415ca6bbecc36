"""What a checkpoint consists of: every file with its size and digest, so that a changed one is not taken for whole."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nemo_bt.foreign.files import check_file

MANIFEST = "manifest.json"
"""File in a checkpoint's folder; one that was converted, or saved by an earlier version, has none."""
WEIGHTS = ".distcp"
"""Suffix of the large files."""
_ZIP_END = b"PK\5\6"
_ZIP_END_BYTES = 22
"""Length of the record that ends a zip file without a comment, and its first bytes (APPNOTE 4.3.16)."""


def files_of(checkpoint: Path) -> list[str]:
    """List the files of a checkpoint beside its manifest, in the same order on every machine."""
    files = (path for path in checkpoint.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(checkpoint)) for path in files if path != checkpoint / MANIFEST)


def facts_of(checkpoint: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Compute size and SHA-256 of the named files."""
    return {name: {"bytes": (checkpoint / name).stat().st_size, "sha256": _sha256(checkpoint / name)} for name in names}


def write_manifest(checkpoint: Path, facts: dict[str, dict[str, Any]]) -> None:
    """Write the manifest: the facts of all files, from `facts_of`."""
    (checkpoint / MANIFEST).write_text(json.dumps({"files": facts}, indent=1, sort_keys=True) + "\n")


def damage(checkpoint: Path, rank: int = 0, num_ranks: int = 1) -> str | None:
    """Say what is not as it was written; None where all is. Without a manifest only a cut end of a file shows.

    Every rank looks at all sizes; the digests are shared out over `num_ranks`.
    """
    facts, reason = _read(checkpoint)
    return reason or _first_difference(checkpoint, facts, lambda number, name: number % num_ranks == rank)


def plain_damage(checkpoint: Path) -> str | None:
    """Say what is damaged without reading the weights: by the sizes of all files, and the digests of small ones."""
    facts, reason = _read(checkpoint)
    return reason or _first_difference(checkpoint, facts, lambda number, name: not name.endswith(WEIGHTS))


def _read(checkpoint: Path) -> tuple[dict[str, dict[str, Any]], str | None]:
    if not checkpoint.is_dir():
        return {}, "it is no folder"
    if not os.path.lexists(checkpoint / MANIFEST):
        return {}, _cut_short(checkpoint)
    try:
        check_file(checkpoint / MANIFEST)
        facts = json.loads((checkpoint / MANIFEST).read_text())["files"]
        return {str(name): {"bytes": fact["bytes"], "sha256": fact["sha256"]} for name, fact in facts.items()}, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{MANIFEST} does not read: {error!r}"


def _cut_short(checkpoint: Path) -> str | None:
    """Name a file of the weights whose end is not there, by the last bytes of its format.

    torch.save writes zip files, several in a row into those of tensors; `.metadata` is a pickle.
    """
    for part in ("context", "weights"):
        if not (checkpoint / part).is_dir():
            return f"{part}/ is missing"
    for file in sorted((checkpoint / "weights").glob("*")):
        is_zip = file.suffix in (WEIGHTS, ".pt")
        if not is_zip and file.name != ".metadata":
            continue
        if not file.is_file():
            return f"weights/{file.name} is no file"
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - _ZIP_END_BYTES))
            end = opened.read()
        if not (end.startswith(_ZIP_END) if is_zip else end.endswith(pickle.STOP)):
            return f"weights/{file.name} is cut short"
    return None


def _first_difference(
    checkpoint: Path, facts: dict[str, dict[str, Any]], wants_digest: Callable[[int, str], bool]
) -> str | None:
    for name, fact in facts.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != fact["bytes"]:
            return f"{name} has {file.stat().st_size:,} bytes, {fact['bytes']:,} were written"
    for number, (name, fact) in enumerate(facts.items()):
        if wants_digest(number, name) and _sha256(checkpoint / name) != fact["sha256"]:
            return f"{name} has other contents than were written"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

"""Tokenised sources on disk, memory-mapped, under a key made of everything that a token id depends on.

`<cache>/<key>/` is whole if it exists: it is written beside and renamed. Built by one process of a node.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from nemo_bt.batching.shuffle import Ints
from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.custom import digest_of_class
from nemo_bt.data.read.drop_report import DropReport
from nemo_bt.data.read.files import DataFile, digest_of, find_files
from nemo_bt.data.store.build import ACCOUNT, COLUMN_FILES, FILES, build, writing_to
from nemo_bt.data.store.column import Column, open_columns
from nemo_bt.data.store.records import tokens_of_pairs
from nemo_bt.data.store.spec import EncodingSpec
from nemo_bt.data.store.sums import block_sums, damage
from nemo_bt.errors import UserError
from nemo_bt.files import new_folder, unfinished_folder
from nemo_bt.observability.terminal import Terminal

_LAYOUT = 8
"""Version of the cache's files and of what rows become; raised whenever either changes."""
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class CachedSource:
    """One tokenised source. Its columns are memory-mapped, and checked as they are read.

    Args:
        tokens: every prompt with its responses, end to end, [T], int32.
        columns: nemo_bt.data.store.records.COLUMNS, [N] each.
        sides: nemo_bt.data.store.records.SIDES, and attributes.
        files: names of its files, which the column `file` counts.
        most_tokens: of a pair with its prompt, whatever is left out.
        made_from: everything that its tokens depend on.
        weight: factor on the loss of its pairs.
    """

    name: str
    folder: Path
    tokens: Column
    columns: dict[str, Column]
    sides: dict[str, Column]
    drop_report: DropReport
    files: list[str]
    format: str
    largest_id: int
    most_tokens: int
    made_from: dict[str, Any]
    weight: float

    def __len__(self) -> int:
        return len(self.columns["row"])

    def tokens_of_pairs(self, start: int, stop: int) -> Ints:
        """Count the tokens of each pair from start to before stop, prompt and responses, [N]."""
        first = self.columns["first_side"][start:stop]
        num_sides = self.columns["num_sides"][start:stop].sum(dtype=np.int64)
        sides = slice(first[0], first[0] + num_sides) if len(first) else slice(0)
        tokens_N: Ints = tokens_of_pairs(self.columns["prefix_tokens"][start:stop], first, self.sides["tokens"][sides])
        return tokens_N

    def where(self, pair: int) -> str:
        """Name the file and row of a pair."""
        return f"{self.files[self.columns['file'][pair]]} row {self.columns['row'][pair]}"


def cache_folder(configured: str | None) -> Path:
    """Find where tokenised data is kept: the setting, $NEMO_BT_CACHE, or ~/.cache/nemo_bt."""
    return Path(configured or os.environ.get("NEMO_BT_CACHE") or "~/.cache/nemo_bt").expanduser()


def open_source(
    spec: EncodingSpec, setting: str, tokenizer_digest: str, folder: Path, num_workers: int, terminal: Terminal
) -> CachedSource:
    """Open a source, tokenised now if it has not been before.

    Args:
        setting: tells in messages where the source was written.
        folder: what `cache_folder` gives.
        terminal: shows the bar, on one rank.

    Raises:
        UserError: data cannot be read (see nemo_bt.data.store.build), or the cache not be written.
    """
    files = find_files(spec.source, setting)
    facts = _facts(spec, files, tokenizer_digest, folder)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    target = folder / key
    opened = None if damage(target, *FILES) else _open(target, spec, files)
    if opened is None:
        with _lock(folder / f"{key}.lock", target):
            reason = damage(target, *FILES)
            if reason:
                if target.exists():
                    terminal.line(f"{reason}: it is made again")
                with writing_to(target):
                    shutil.rmtree(target, ignore_errors=True)  # damaged, if it is there
                _build_beside(target, files, spec, num_workers, terminal, facts)
                if digest_of(files, folder / "digests") != facts["files"]:
                    shutil.rmtree(target)
                    raise UserError(f"a file of {spec.source.name} changed while it was read. Start again.")
            opened = _open(target, spec, files)
    if opened is None:
        raise UserError(f"{target}: expected the tokenised source that was just written. Is the folder still there?")
    return opened


def _facts(spec: EncodingSpec, files: list[DataFile], tokenizer_digest: str, folder: Path) -> dict[str, Any]:
    """List everything that what is stored depends on, as plain data."""
    custom = digest_of_class(spec.source.custom_cls)
    rows = {name: value for name, value in asdict(spec.source).items() if name in RowSettings.__dataclass_fields__}
    return {
        "layout": _LAYOUT,
        "files": digest_of(files, folder / "digests"),
        "kinds": [] if custom else [(file.kind, file.compression) for file in files],
        "custom_class": custom,
        "rows": rows,
        "tokenizer": tokenizer_digest,
        "rendering": spec.renderer.described(),
        "max_length": spec.limit.tokens,
        "length_policy": spec.length_policy,
        "takes": spec.takes,
        "attributes": [list(spec.attributes), list(spec.weights)],
        "versions": {name: version(name) for name in ("tokenizers", "transformers")},
    }


@contextmanager
def _lock(path: Path, target: Path) -> Iterator[None]:
    """Hold the lock. The first local rank has the terminal, so the others leave it the start for a while.

    They do so until the target is whole.
    """
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    is_first = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))) == 0
    start_s = time.monotonic()
    while not is_first and damage(target, *FILES) and time.monotonic() - start_s < _PATIENCE_S:
        time.sleep(0.1)
    lock = FileLock(path)
    try:
        lock.acquire(poll_interval=0.1)
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks
        raise UserError(
            f"model.data.cache_dir: {path} cannot be locked ({error}). Set it to a folder on another disk."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _build_beside(
    target: Path, files: list[DataFile], spec: EncodingSpec, num_workers: int, terminal: Terminal, facts: dict[str, Any]
) -> None:
    host = socket.gethostname()
    for left in target.parent.glob(unfinished_folder(target, f"{host}.*").name):  # a kill left it: we hold its lock
        shutil.rmtree(left, ignore_errors=True)
    with ExitStack() as stack:
        with writing_to(target):
            beside = stack.enter_context(new_folder(target, owner=f"{host}.{os.getpid()}"))
        build(beside, files, spec, num_workers, terminal, facts)
        with writing_to(target):
            try:
                stack.close()
            except OSError:
                if not target.exists():  # else another node was faster, which shares the folder but not the lock
                    raise


def _open(folder: Path, spec: EncodingSpec, files: list[DataFile]) -> CachedSource | None:
    """Open a source that is whole; messages get the names that its files have now. None: it is gone."""
    try:
        about = json.loads((folder / ACCOUNT).read_text())
        sums = zip(COLUMN_FILES, block_sums(folder, COLUMN_FILES), strict=True)
        tokens, columns, sides = (open_columns(folder / name, known) for name, known in sums)
    except OSError:
        return None
    drop_report = DropReport.from_json(about["account"] | {"limit": spec.limit.words})
    names = [file.name for file in files]
    for before, now in zip(about["files"], names, strict=True):
        for reason, examples in drop_report.examples.items():
            drop_report.examples[reason] = [e.replace(f"{before} row", f"{now} row", 1) for e in examples]
    return CachedSource(
        name=spec.source.name,
        folder=folder,
        tokens=tokens["token"],
        columns=columns,
        sides=sides,
        drop_report=drop_report,
        files=names,
        format=about["format"],
        largest_id=about["largest_id"],
        most_tokens=about["most_tokens"],
        made_from=about["made_from"],
        weight=spec.source.weight,
    )

"""nemo-bt fetch: bring what a command reads from the hub into the shared cache, where nodes have no network."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.model import JobSettings, Settings
from nemo_bt.config.score import EvaluateRun, ScoreRun
from nemo_bt.data.read.files import find_files
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.resolve import find_pretrained

_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
"""Variables that say where libraries keep what they fetch."""


def fetch(run: JobSettings, terminal: Terminal) -> None:
    """Fetch the model and the data of a command, and say what its job needs to find them without a network.

    Raises:
        UserError: there is no such model or data, or it is data that cannot be kept.
    """
    model: Any = run.model
    words = []
    if model.restore_from_path:
        found = find_pretrained(model.restore_from_path)
        terminal.line(f"model {found.given}: {_size(found.path)} in {found.path}")
        words.append(shlex.quote(f"model.restore_from_path={found.given}"))
    sources = list(_sources(run))
    remote = [path for _, source in sources for path in source.path if "://" in path]
    if remote:
        raise UserError(
            f"{', '.join(remote)}: a job reads such files over the network, and nothing keeps them. Download them to "
            "a folder that the nodes see, and name it; or name a data set of the hub (organisation/name), which stays."
        )
    for setting, source in sources:
        files = find_files(source, setting)
        size = sum(file.num_bytes for file in files)
        terminal.line(f"{setting} {', '.join(source.path)}: {len(files)} files, {size / 1e6:,.1f} MB")
    caches = [shlex.quote(f"{name}={os.environ[name]}") for name in _CACHES if name in os.environ]
    terminal.line("In the job, on nodes without a network:")
    terminal.line(f"  export HF_HUB_OFFLINE=1 {' '.join(caches)}".rstrip())
    if words:
        terminal.line(f"  {' '.join(words)}")


def _sources(run: JobSettings) -> Iterator[tuple[str, SourceSettings]]:
    """Give what a command reads, with the setting that names it."""
    if isinstance(run, Settings):
        data = run.model.data
        yield from (("model.data.train", source) for source in data.train)
        yield from ((f"model.data.validation.{n}", source) for n, some in data.validation.items() for source in some)
    elif isinstance(run, EvaluateRun):
        yield from (("evaluate.input", one.source) for one in run.one_by_one().values())
    elif isinstance(run, ScoreRun):
        yield "score.input", run.source


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e9:.2f} GB"

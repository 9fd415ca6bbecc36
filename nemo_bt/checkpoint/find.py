"""Finding checkpoints: `<log dir>/checkpoints/<name>-step<n>.nemo` was whole when it got its name.

It imports nothing heavy.
"""

from __future__ import annotations

import re
from pathlib import Path

from nemo_bt.checkpoint.manifest import plain_damage
from nemo_bt.errors import UserError
from nemo_bt.foreign.files import read_json

_NAME = re.compile(r"-step(\d+)\.nemo$")


def saved_checkpoints(folder: Path) -> list[Path]:
    """List the whole checkpoints in `folder`, oldest step first."""
    return sorted(filter(is_named_by_step, folder.glob("*.nemo")), key=step_of)


def is_named_by_step(path: Path) -> bool:
    """Tell whether the name has a step, as `step_of` needs it."""
    return _NAME.search(path.name) is not None


def step_of(checkpoint: Path) -> int:
    """Read how many optimizer steps a checkpoint has behind it; `run-step40.nemo` has 40."""
    match = _NAME.search(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def wrong_name(checkpoint: Path) -> str | None:
    """Say what tells that a checkpoint is not of the step in its name: a link to another one, a copy, no such facts."""
    target = checkpoint.resolve()
    if is_named_by_step(target) and step_of(target) != step_of(checkpoint):
        return f"it is a link to step {step_of(target)}"
    file = checkpoint / "context" / "training.json"
    try:
        step = read_json(file, "facts of the training").get("step") if file.is_file() else None
    except UserError as error:  # its bytes are checked later, and by another rank: here it is one more sign of damage
        return str(error)
    return f"it holds step {step}" if isinstance(step, int) and step != step_of(checkpoint) else None


def checkpoint_to_resume(folder: Path, resume_if_exists: bool) -> Path | None:
    """Find the newest checkpoint to continue from; None is a fresh run.

    A checkpoint is passed over if damage shows without reading its weights. Those are checked when they are loaded
    (`nemo_bt.training.strategy`).

    Raises:
        UserError: there are checkpoints, but the run is not to resume and would write over them; or none is whole.
    """
    saved = saved_checkpoints(folder)
    if saved and not resume_if_exists:
        raise UserError(
            f"{folder} holds checkpoints up to step {step_of(saved[-1])}. Set exp_manager.resume_if_exists=true to "
            "continue, or another exp_manager.explicit_log_dir to start again."
        )
    found = []
    for checkpoint in reversed(saved):
        reason = plain_damage(checkpoint) or wrong_name(checkpoint)
        if reason is None:
            return checkpoint
        found.append(f"{checkpoint} is damaged: {reason}")
    if found:
        raise UserError(none_whole(found))
    return None


def last_whole(log_dir: Path, count: int) -> tuple[list[Path], list[str]]:
    """Find the newest `count` checkpoints of a run, oldest first, and say which newer ones are damaged.

    Damage is what shows without reading weights.

    Raises:
        UserError: the run has fewer.
    """
    whole: list[Path] = []
    damaged = []
    for checkpoint in reversed(saved_checkpoints(log_dir / "checkpoints")):
        reason = plain_damage(checkpoint) or wrong_name(checkpoint)
        if reason:
            damaged.append(f"{checkpoint} is damaged: {reason}")
        else:
            whole.insert(0, checkpoint)
        if len(whole) == count:
            return whole, damaged
    raise UserError(
        f"{log_dir}: expected {count} whole checkpoints, found {'; '.join([str(len(whole)), *damaged])}. "
        "exp_manager.checkpoint_callback_params.save_last_n says how many a run keeps."
    )


def none_whole(found: list[str]) -> str:
    """Give the message for a folder in which every checkpoint is damaged."""
    return (
        f"no checkpoint to resume from is whole. {'; '.join(found)}. Bring one back, or start a new "
        "exp_manager.explicit_log_dir."
    )


def name_aside(checkpoint: Path) -> Path:
    """Find a free name by which no run resumes from it: `<name>.damaged`, or one with a number where that is taken."""
    names = (f"{checkpoint.name}.damaged{number}" for number in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(path for name in names if not (path := checkpoint.with_name(name)).exists())

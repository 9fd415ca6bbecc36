"""Errors of file systems, named for the user. It imports nothing heavy but torch, when it is used."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_bt.errors import UserError

_NAMED = {
    errno.ENOSPC: "it is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file is larger than allowed (ulimit -f)",
    errno.EROFS: "it is read-only now",
    errno.EIO: "the disk reports errors",
    errno.ESTALE: "the file server lost it",
}
_IN_TEXT = re.compile(r"\[Errno (\d+)\]")
_SHARED_MEMORY = Path("/dev/shm")
_LITTLE_BYTES = 2**16
_GOES_ON = (
    "Checkpoints that have their name are whole: make room, and the same command with "
    "exp_manager.resume_if_exists=true goes on."
)
_BY_ANOTHER = "another rank could not write its part"
_FOR_THE_OTHER_S = 5.0
"""Time in which the first rank, which alone gets to know why, says so and ends this one."""
_NO_REPORT = "results_queue should not be empty"
"""Megatron says so when a writer ended without a report."""
_NOT_WRITTEN = "inline_container"
"""torch says so when a file cannot be opened, or takes no more."""


@contextmanager
def naming_disk_errors(folder: Path, goes_on: str = _GOES_ON) -> Iterator[None]:
    """Turn what a file system refuses into a message about the folder that a run writes to; leave the rest as it is.

    Args:
        folder: what the run writes to.
        goes_on: what the user can do, for the message.

    Raises:
        UserError: a disk is full, a folder is read-only, ...
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        reason = None if _is_elsewhere(error, folder) else _reason(error, folder)
        if reason is None:
            raise
        if reason == _BY_ANOTHER:
            time.sleep(_FOR_THE_OTHER_S)
        raise UserError(f"cannot write to {folder} ({_free(folder)}): {reason}. {goes_on}") from error


def _is_elsewhere(error: BaseException, folder: Path) -> bool:
    name = error.filename if isinstance(error, OSError) else None
    return isinstance(name, str) and not Path(name).resolve().is_relative_to(folder.resolve())


def _reason(error: BaseException, folder: Path) -> str | None:
    """Find what a file system says in a chain of errors, some of which came as text from another process."""
    numbers = []
    texts = []
    by_another = False
    current: BaseException | None = error
    while current:
        by_another = by_another or getattr(current, "failures", None) == {}  # the first rank alone gets to know why
        if isinstance(current, OSError) and current.errno:
            numbers.append(current.errno)
        texts.append(f"{current} {getattr(current, 'failures', '')}")  # torch.distributed.checkpoint has them by rank
        current = current.__cause__ or current.__context__
    numbers += map(int, _IN_TEXT.findall(" ".join(texts)))
    of_torch = " ".join(text for text in texts if _NOT_WRITTEN in text)  # it has the words, and no number
    numbers += [number for number in _NAMED if os.strerror(number) in of_torch]
    number = next((number for number in numbers if number in _NAMED), None)
    lacks_room = (
        number == errno.ENOSPC
        or by_another
        or any(words in text for text in texts for words in (_NO_REPORT, _NOT_WRITTEN))
    )
    if lacks_room and _is_full(_SHARED_MEMORY) and not _is_full(folder):
        return f"{_SHARED_MEMORY} is full, through which the writers of a checkpoint report"
    if lacks_room and _is_full(folder):
        number = errno.ENOSPC
    if number is None and isinstance(error, OSError) and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror}"  # `_is_elsewhere` has looked where it is
    if number is None and by_another:
        return _BY_ANOTHER
    return f"{os.strerror(number)}: {_NAMED[number]}" if number else None


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.3f} GB free"
    except OSError as error:
        return str(error.strerror)


def _is_full(folder: Path) -> bool:
    return folder.exists() and shutil.disk_usage(folder).free < _LITTLE_BYTES

"""One run at a time in a log directory, and nothing left there of one that was killed. It imports nothing heavy."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from nemo_bt.errors import UserError
from nemo_bt.files import remove, unfinished_folders

_WAIT_S = 30.0
"""Time that a run which is ending may take."""
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def only_run(log_dir: Path, wait_s: float = _WAIT_S) -> Iterator[None]:
    """Hold the log directory, and remove checkpoints that another run did not finish.

    The lock is the kernel's: it ends with the process. On file systems without locks nothing is held. Another run may
    take `wait_s` to end.

    Raises:
        UserError: another run goes on there.
    """
    with _opened(log_dir / ".lock") as file:
        deadline_s = time.monotonic() + wait_s
        while not _is_locked(file.fileno()):
            if time.monotonic() > deadline_s:
                file.seek(0)
                raise UserError(
                    f"{log_dir}: another run writes there ({file.read().strip()}). Wait until it has ended, end it, or "
                    "choose another exp_manager.explicit_log_dir."
                )
            time.sleep(0.2)
        file.truncate(0)
        file.write(f"host {socket.gethostname()}, process {os.getpid()}\n")
        file.flush()
        for unfinished in unfinished_folders(log_dir / "checkpoints"):
            remove(unfinished)
        yield


def _opened(path: Path) -> TextIO:
    """Open the lock's file, which is no link: what it names would be overwritten.

    Raises:
        UserError: something else has its name.
    """
    found = "no file"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        if stat.S_ISREG(os.fstat(file).st_mode):
            return os.fdopen(file, "r+", errors="replace")
        os.close(file)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise
        found = "a link" if error.errno == errno.ELOOP else found
    raise UserError(f"{path}: expected the file by which a run holds its log directory, found {found}. Remove it.")


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    return True

"""A command's work on one rank: libraries' output goes to nemo.log, and what went wrong to the user."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError
from nemo_bt.launching import local as launch
from nemo_bt.launching.signals import STOPPED_STATUS
from nemo_bt.observability.failure import report_failure
from nemo_bt.observability.terminal import Terminal, divert_output


def run_as_rank(
    folder: Path, setting: str, work: Callable[[Terminal, int], int], within: str = ".", leaves_log: bool = True
) -> int:
    """Do the work of one rank, and give its exit status: that of `work`, or 2 for a user's mistake.

    Args:
        folder: where nemo.log is written; it is made.
        setting: the setting that names `folder`, for the message where it cannot be written.
        work: (terminal of this rank, rank) -> exit status; may raise UserError.
        within: a folder in `folder` that is made too.
        leaves_log: whether a mistake leaves nemo.log; otherwise it leaves nothing that was not there before.
    """
    rank = launch.current_rank()
    made = _missing(folder)
    had_log = (folder / "nemo.log").exists()
    try:
        log = make_log(folder, setting, within)
    except UserError as error:
        launch.report(error, sys.stderr)
        return 2
    stdout, stderr = divert_output(log)
    terminal = Terminal(stdout if rank == 0 else None, stderr)
    sys.excepthook = report_failure(rank, folder, terminal)
    try:
        return work(terminal, rank)
    except UserError as error:
        _into_log(f"error: {error}")
        launch.report(error, stderr)
        if not had_log and not leaves_log:
            _remove(log, made)
        return 2
    finally:
        terminal.stop()


def _into_log(text: str) -> None:
    """Write a line to nemo.log, after what libraries have printed; nowhere, where its disk takes no more.

    What were left to be written then would have Python end with a status of its own.
    """
    with suppress(OSError):
        print(text, file=sys.stderr)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


def _missing(folder: Path) -> list[Path]:
    """List a folder and those above it that are not there, the innermost first."""
    return [one for one in (folder, *folder.parents) if not one.exists()]


def _remove(log: Path, folders: list[Path]) -> None:
    """Remove a log, and folders in which nothing else is; other ranks may do the same."""
    log.unlink(missing_ok=True)
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def own_log_dir(settings: Settings) -> Iterator[Settings]:
    """Give settings without a log directory one of their own, which is removed. A crash leaves it, with its log.

    A block tells by SystemExit that ranks which it has started crashed.
    """
    exp = settings.exp_manager
    tracks = exp.create_tensorboard_logger or exp.create_wandb_logger or exp.create_swanlab_logger
    if exp.explicit_log_dir or tracks:
        yield settings
        return
    folder = tempfile.mkdtemp(prefix="nemo_bt-")
    try:
        yield replace(settings, exp_manager=replace(settings.exp_manager, explicit_log_dir=folder))
    except (UserError, SystemExit, KeyboardInterrupt) as ended:
        if not isinstance(ended, SystemExit) or ended.code in (0, 2, STOPPED_STATUS):
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def make_log(folder: Path, setting: str, within: str = ".") -> Path:
    """Make a folder, one in it, and its nemo.log; give the log.

    Raises:
        UserError: nothing can be written there.
    """
    log = folder / "nemo.log"
    try:
        (folder / within).mkdir(parents=True, exist_ok=True)
        log.open("ab").close()
    except OSError as error:
        raise UserError(f"{setting}: expected a folder to write to, got {error}.") from error
    return log

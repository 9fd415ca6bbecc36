"""A command's work on one rank: libraries' output goes to nemo.log, and what went wrong to the user."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from nemo_bt.errors import UserError
from nemo_bt.launching import local as launch
from nemo_bt.observability.failure import report_failure
from nemo_bt.observability.terminal import Terminal, divert_output


def run_as_rank(folder: Path, setting: str, work: Callable[[Terminal, int], int], within: str = ".") -> int:
    """Do the work of one rank, and give its exit status: that of `work`, or 2 for a user's mistake.

    Args:
        folder: where nemo.log is written; it is made.
        setting: the setting that names `folder`, for the message where it cannot be written.
        work: (terminal of this rank, rank) -> exit status; may raise UserError.
        within: a folder in `folder` that is made too.
    """
    rank = launch.current_rank()
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
        print(f"error: {error}", file=sys.stderr)  # into nemo.log
        launch.report(error, stderr)
        return 2


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

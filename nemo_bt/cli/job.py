"""A job that a program asks for: on this rank, or on ranks that are started for it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_bt.cli.worker import make_log, run_as_rank
from nemo_bt.config.load import dump_settings
from nemo_bt.config.model import JobSettings, Settings
from nemo_bt.errors import UserError
from nemo_bt.launching import local, script
from nemo_bt.launching.signals import kept_handlers
from nemo_bt.observability.terminal import Terminal, diverted_output


def run_job(settings: JobSettings, folder: Path, work: Callable[[Terminal, int], Any], within: str = ".") -> Any:
    """Do the work on this rank, or start ranks that do.

    Args:
        folder: where nemo.log is written; it is made.
        work: (terminal of this rank, rank) -> a result that pickle can hold.
        within: a folder in `folder` that is made too.

    Returns:
        What the work gave; where ranks were started, what it gave on rank 0.

    Raises:
        UserError: the work cannot be done as it was asked.
        RuntimeError: a rank that was started failed.
    """
    if local.is_to_start(settings):
        return script.start_and_wait(script.own_command(), settings.world_size, folder)
    from nemo_bt.scoring.scorer import RewardScorer

    if RewardScorer.live:
        raise UserError("a RewardScorer is open in this process, which holds one or runs a job: close() it first.")
    if script.is_rank_of_a_script():

        def leave(terminal: Terminal, rank: int) -> int:
            script.leave_result(work(terminal, rank))
            return 0

        sys.exit(run_as_rank(folder, str(folder), leave, within))
    log = make_log(folder, str(folder), within)
    rank = local.current_rank()
    with kept_handlers(), diverted_output(log, shows=rank == 0) as terminal:
        return work(terminal, rank)


def run_command(command: str, settings: Settings) -> Any:
    """Start local ranks that run a command with these settings, and give its result.

    Raises:
        UserError: the ranks found a user's mistake, or are to be on several nodes.
        RuntimeError: a rank failed.
    """
    local.is_to_start(settings)  # it refuses several nodes
    with tempfile.TemporaryDirectory(prefix="nemo_bt-launch-") as folder:
        (Path(folder) / "settings.yaml").write_text(dump_settings(settings))
        argv = ["-m", "nemo_bt", command, "--config-dir", folder, "--config-name", "settings"]
        return script.start_and_wait(argv, settings.world_size, settings.exp_manager.log_dir)

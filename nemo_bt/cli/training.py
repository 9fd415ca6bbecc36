"""nemo-bt train and validate: start the ranks, or be one. Each imports what it needs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nemo_bt.launching import local as launch
from nemo_bt.launching.script import leave_result
from nemo_bt.launching.signals import STOPPED_STATUS, StopRequest

if TYPE_CHECKING:
    from nemo_bt.config.model import Settings
    from nemo_bt.pretrained.resolve import PretrainedSource


def train(args: argparse.Namespace) -> int:
    """Run nemo-bt train: start the ranks, or be one."""
    from nemo_bt.config.load import load_settings

    settings = load_settings(args.config_name, args.overrides, args.config_dir)

    from nemo_bt.observability.terminal import Terminal
    from nemo_bt.training.checks import check_settings, pinned

    request = StopRequest(settings.exp_manager.time_limit_s, ends_on_sigterm=launch.started_here())
    if launch.joined() or settings.world_size == 1:
        request.listen()
    pretrained = check_settings(settings)
    settings = pinned(settings, pretrained)
    if args.dry_run:
        from nemo_bt.planning.dry_run import dry_run

        dry_run(settings, pretrained, Terminal(sys.stdout))
        return 0
    if launch.is_to_start(settings):
        return launch.run_ranks(same_command(args, settings.model.restore_from_path), settings.world_size)
    return _train_here(settings, pretrained, request)


def validate(args: argparse.Namespace) -> int:
    """Run nemo-bt validate: start the ranks, or be one."""
    from nemo_bt.cli.worker import own_log_dir, run_as_rank
    from nemo_bt.config.load import load_settings
    from nemo_bt.training.checks import check_settings, pinned

    with own_log_dir(load_settings(args.config_name, args.overrides, args.config_dir)) as settings:
        if launch.joined() or settings.world_size == 1:
            StopRequest(limit_s=None, ends_on_sigterm=launch.started_here()).listen()
        pretrained = check_settings(settings, trains=False)
        settings = pinned(settings, pretrained)
        log_dir = settings.exp_manager.log_dir
        if launch.is_to_start(settings):
            command = same_command(args, settings.model.restore_from_path)
            sys.exit(launch.run_ranks([*command, f"exp_manager.explicit_log_dir={log_dir}"], settings.world_size))

        from nemo_bt.observability.terminal import Terminal
        from nemo_bt.training.train import validate_only

        def work(terminal: Terminal, rank: int) -> int:
            leave_result(validate_only(settings, pretrained, terminal).validation)
            return 0

        return run_as_rank(log_dir, f"exp_manager.explicit_log_dir={log_dir}", work, leaves_log=False)


def same_command(args: argparse.Namespace, given: str | None) -> list[str]:
    """Give the command of each rank, which names the commit of the hub that was found."""
    return [*args.argv, *([f"model.restore_from_path={given}"] if given and "@" in given else [])]


def _train_here(settings: Settings, pretrained: PretrainedSource | None, request: StopRequest) -> int:
    """Train on this rank with its output in <log dir>/nemo.log, and tell the user what went wrong."""
    from nemo_bt.cli.worker import run_as_rank
    from nemo_bt.observability.events import telling_failure
    from nemo_bt.observability.terminal import Terminal
    from nemo_bt.training.train import train as train_on_this_rank

    log_dir = settings.exp_manager.log_dir

    def work(terminal: Terminal, rank: int) -> int:
        try:
            with telling_failure(log_dir, rank):
                outcome = train_on_this_rank(settings, pretrained, terminal, rank, request=request)
        except SystemExit as stopped:
            if stopped.code == STOPPED_STATUS and not launch.started_here() and rank == 0:
                terminal.error("stopped before training")
            raise
        leave_result(outcome)
        return STOPPED_STATUS if outcome.stopped_by and not launch.joined() else 0

    return run_as_rank(log_dir, f"exp_manager.explicit_log_dir={log_dir}", work, "checkpoints")

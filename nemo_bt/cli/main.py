"""The nemo-bt command. It exits with 0 when done, 75 when stopped early and saved, 2 for a user's mistake, else 1.

Each command imports what it needs: `--help` waits for nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nemo_bt.cli.arguments import parse
from nemo_bt.cli.training import same_command, train, validate
from nemo_bt.errors import UserError
from nemo_bt.launching import local as launch
from nemo_bt.launching.script import leave_result
from nemo_bt.launching.signals import STOPPED_STATUS, StopRequest


def main() -> None:
    """Run the command of this process and exit; the console script enters here."""
    from nemo_bt.observability.terminal import ShownStream

    sys.stderr = ShownStream(2)  # also tracebacks and warnings of libraries quote what they read
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command, and give its exit status."""
    args = parse(argv)
    run = {"check-nodes": _check_nodes, "data": _data, "plan": _plan, "status": _status, "train": train}
    run |= {"validate": validate, "score": _score, "evaluate": _score, "label": _score, "serve": _serve}
    run |= {"report": _report, "export": _convert, "import": _convert, "average": _convert, "help": _help}
    run |= {"fetch": _fetch}
    try:
        return _show_configuration(args) if getattr(args, "cfg", False) else run[args.command](args)
    except UserError as error:
        launch.report(error, sys.stderr)
        return 2


def _show_configuration(args: argparse.Namespace) -> int:
    """Print what a command would run with, as YAML that --config-name reads again."""
    from nemo_bt.cli.kinds import kind_of
    from nemo_bt.config.load import dump_settings, load_settings_of

    kind = kind_of(getattr(args, "kind", args.command))
    settings = load_settings_of(kind, args.config_name, args.overrides, args.config_dir)
    sys.stdout.write(dump_settings(settings))
    return 0


def _help(args: argparse.Namespace) -> int:
    """Run nemo-bt help."""
    from nemo_bt.cli.help import show_help
    from nemo_bt.observability.terminal import Terminal

    show_help(args.topic, args.words, Terminal(sys.stdout))
    return 0


def _fetch(args: argparse.Namespace) -> int:
    """Run nemo-bt fetch."""
    from nemo_bt.cli.fetch import fetch
    from nemo_bt.cli.kinds import kind_of
    from nemo_bt.config.load import load_settings_of
    from nemo_bt.observability.terminal import Terminal

    fetch(load_settings_of(kind_of(args.kind), args.config_name, args.overrides, args.config_dir), Terminal(sys.stdout))
    return 0


def _convert(args: argparse.Namespace) -> int:
    """Run nemo-bt export, import or average."""
    from nemo_bt.converters import average, hf_to_nemo, nemo_to_hf
    from nemo_bt.converters.output import run

    command = {"export": nemo_to_hf, "import": hf_to_nemo, "average": average}[args.command]
    run(lambda terminal: command.convert(args, terminal))
    return 0


def _data(args: argparse.Namespace) -> int:
    """Run nemo-bt data build, show or stats."""
    from nemo_bt.config.equations import check_data
    from nemo_bt.config.load import load_settings

    settings = load_settings(args.config_name, args.overrides, args.config_dir)
    check_data(settings.model.data)

    from nemo_bt.data.inspect import check_limits, open_sets, show, stats, without_limits
    from nemo_bt.observability.terminal import Terminal

    terminal = Terminal(sys.stdout)
    sets, tokenizer = open_sets(without_limits(settings) if args.action == "stats" else settings, terminal)
    if args.pairs < 1:
        raise UserError(f"--pairs: expected 1 or more, got {args.pairs}.")
    if args.action == "show":
        show(sets, tokenizer, args.pairs, terminal)
    elif args.action == "stats":
        stats(sets, settings, args.picture, terminal)
        check_limits(sets, settings.model.data)
    return 0


def _plan(args: argparse.Namespace) -> int:
    """Run nemo-bt plan."""
    from nemo_bt.observability.terminal import Terminal

    if args.trace:
        return _trace(args)
    if args.rank is not None:
        raise UserError(f"--rank={args.rank} names the rank of a trace: add --trace.")
    from nemo_bt.planning.command import plan_run

    plan_run(args.config_name, args.overrides, args.config_dir, args.rows, args.json, Terminal(sys.stdout))
    return 0


def _trace(args: argparse.Namespace) -> int:
    """Run nemo-bt plan --trace: the tables, and in the last line whether it fits."""
    from nemo_bt.observability.terminal import Terminal
    from nemo_bt.planning.trace import trace_plan
    from nemo_bt.planning.trace_report import show_trace, trace_as_json, verdict

    terminal = Terminal(sys.stdout)
    told = Terminal(None) if args.json else terminal
    traced = trace_plan(args.config_name, args.overrides, args.config_dir, args.rank, told)
    show_trace(traced, args.rows, told)
    status, line = verdict(traced)
    if args.json:
        terminal.line(trace_as_json(traced))
    elif status:
        sys.stderr.write(f"error: {line}\n")
    else:
        terminal.line(line)
    return status


def _status(args: argparse.Namespace) -> int:
    """Run nemo-bt status."""
    from nemo_bt.cli.status import show_status
    from nemo_bt.observability.terminal import Terminal

    show_status(args.log_dir, args.verify, Terminal(sys.stdout))
    return 0


def _check_nodes(args: argparse.Namespace) -> int:
    """Run nemo-bt check-nodes, on one of them."""
    from nemo_bt.cli.check_nodes import check_nodes
    from nemo_bt.config.load import load_settings

    check_nodes(load_settings(args.config_name, args.overrides, args.config_dir))
    return 0


def _score(args: argparse.Namespace) -> int:
    """Run nemo-bt score, evaluate or label: start the ranks, or be one."""
    from nemo_bt.config.load import load_settings_of
    from nemo_bt.config.score import RUNS

    run = load_settings_of(RUNS[args.command], args.config_name, args.overrides, args.config_dir)

    from nemo_bt.evaluation.label import check_label
    from nemo_bt.scoring.checks import check_score

    if args.command == "label":
        check_label(run.label)
    request = StopRequest(limit_s=None, ends_on_sigterm=launch.started_here())
    runs = run.one_by_one() if args.command == "evaluate" else {"": run}
    checked = {name: check_score(one) for name, one in runs.items()}
    _, pretrained, first = next(iter(checked.values()))
    if launch.is_to_start(run):
        return launch.run_ranks(same_command(args, run.model.restore_from_path), run.world_size)

    from nemo_bt.cli.worker import run_as_rank
    from nemo_bt.evaluation.command import check_shape, evaluate, write_together
    from nemo_bt.evaluation.label import label
    from nemo_bt.evaluation.leaderboard import write_leaderboard
    from nemo_bt.observability.terminal import Terminal
    from nemo_bt.scoring.command import open_for, score
    from nemo_bt.scoring.model import open_trained
    from nemo_bt.training.loading_bar import with_bar

    def work(terminal: Terminal, rank: int) -> int:
        for one, *_ in checked.values() if args.command == "evaluate" else ():
            check_shape(one, pretrained)
        results = {}
        engine = open_for(run, with_bar(open_trained(pretrained), run.model, terminal)) if len(runs) > 1 else None
        for name, (one, _, parts) in checked.items():
            is_done = score(one, pretrained, parts, terminal, rank, request, engine)
            if not is_done:
                break
            if rank == 0 and args.command == "evaluate":
                results[name] = evaluate(one, pretrained.given, terminal, [*pretrained.architecture.attributes])
                write_leaderboard(one, pretrained, results[name], terminal)
        if engine:
            engine.close()
        if is_done and len(results) > 1:
            write_together(run, results, terminal)
        if is_done and rank == 0 and args.command == "label":
            label(one, terminal)
        leave_result(is_done)
        return 0 if is_done or launch.joined() else STOPPED_STATUS

    folder = first.folder if len(runs) == 1 else Path(run.evaluate.output)
    return run_as_rank(folder, str(folder), work, leaves_log=False)


def _report(args: argparse.Namespace) -> int:
    """Run nemo-bt report: start the ranks, or be one."""
    from nemo_bt.reporting.settings import load_run, with_model

    run = load_run(args.log_dir, args.overrides, args.results)
    run = run if args.without_model else with_model(run, args.checkpoint)
    if run.pretrained and launch.is_to_start(run.settings):
        found = [] if args.checkpoint else ["--checkpoint", str(run.pretrained.path)]  # all ranks take the same one
        return launch.run_ranks([*args.argv, *found], run.settings.world_size)

    from nemo_bt.cli.worker import run_as_rank
    from nemo_bt.reporting.command import write_report

    return run_as_rank(args.log_dir / "report", "log_dir", lambda *ranked: write_report(run, *ranked))


def _serve(args: argparse.Namespace) -> int:
    """Run nemo-bt serve."""
    from nemo_bt.config.load import load_settings_of
    from nemo_bt.config.serve import ServeRun
    from nemo_bt.observability.terminal import Terminal
    from nemo_bt.serving.command import check_serve, serve

    run = load_settings_of(ServeRun, args.config_name, args.overrides, args.config_dir)
    serve(run, check_serve(run), Terminal(sys.stdout))
    return 0

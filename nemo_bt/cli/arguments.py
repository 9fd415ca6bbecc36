"""The command line: commands, their options, and overrides. It imports nothing of nemo_bt."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def command_line() -> argparse.ArgumentParser:
    """Give the parser of every command."""
    parser = argparse.ArgumentParser(prog="nemo-bt", description="Bradley-Terry reward models on NeMo and Megatron.")
    commands = parser.add_subparsers(dest="command", required=True)
    described = "Overrides are key=value, as Hydra's."
    train = commands.add_parser("train", help="train a reward model", description=described)
    data = commands.add_parser("data", help="tokenise, show or count preference data", description=described)
    data.add_argument("action", choices=("build", "show", "stats"))
    data.add_argument("--pairs", type=int, default=2, help="show: pairs of each set")
    data.add_argument("--picture", type=Path, default=Path("lengths.png"), help="stats: file for the histogram")
    validation = commands.add_parser("validate", help="validate a model, without training", description=described)
    scoring = [
        (commands.add_parser(name, help=what, description=described), name)
        for name, what in (
            ("score", "rewards of rows that exist"),
            ("evaluate", "accuracy on pairs, RewardBench, RewardBench 2 or RM-Bench"),
            ("label", "feedback to train on, from scored samples"),
        )
    ]
    scoring[0][0].add_argument("--normalize", action="store_true", help="score.normalize=true")
    report = commands.add_parser("report", help="a page about a run and its model", description=described)
    report.add_argument("log_dir", type=Path)
    report.add_argument("overrides", nargs="*", metavar="key=value", help="of the run's config.yaml: a layout, say")
    report.add_argument("--checkpoint", type=Path, help="the newest of the run, if none is named")
    report.add_argument("--without-model", action="store_true", help="what is logged, alone: nothing is scored")
    serve = commands.add_parser("serve", help="a scoring server", description=described)
    nodes = commands.add_parser("check-nodes", help="compare the nodes of a Slurm job", description=described)
    plan = commands.add_parser("plan", help="memory and time of every layout on a cluster", description=described)
    plan.add_argument("--json", action="store_true", help="everything, for programs")
    plan.add_argument("--rows", type=int, default=20, help="layouts in each table")
    status = commands.add_parser("status", help="where a run is, from its log directory")
    status.add_argument("log_dir", type=Path)
    status.add_argument("--verify", action="store_true", help="read every file of every checkpoint")
    training = [(command, "train") for command in (train, validation, nodes, data)]
    for command, name in [*training, (plan, "plan"), (serve, "serve"), *scoring]:
        command.add_argument("--config-name", default=name, help="a configuration of conf/ or of --config-dir")
        command.add_argument("--config-dir", help="a folder with configurations of your own")
        command.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one command, with `overrides`, and `argv` as it came.

    Raises:
        SystemExit: there is no such command or option; 0 for --help.
    """
    parser = command_line()
    args, more = parser.parse_known_args(argv)  # argparse takes overrides on one side of an option only
    if args.command == "status" and more:
        parser.error(f"unknown argument {more[0]}")
    for word in more:
        if word.startswith("-"):
            plain = word.lstrip("-")
            parser.error(f"unknown option {word}" + (f": settings have no dashes, type {plain}" * ("." in plain)))
    args.argv = list(argv)
    args.overrides = [*getattr(args, "overrides", []), *more]
    for word, behind in zip(args.overrides, [*args.overrides[1:], "..."], strict=False):
        if "=" not in word and not word.startswith("~"):
            parser.error(f"expected key=value, got {word}: type {word}={behind}")
    if getattr(args, "normalize", False):
        args.overrides.append("score.normalize=true")
    return args

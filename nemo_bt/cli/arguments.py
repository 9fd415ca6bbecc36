"""The command line: commands, their options, and overrides. It imports nothing heavy: `--help` waits for nothing."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from nemo_bt.cli.examples import EXAMPLES
from nemo_bt.config.foreign_names import SAME_VALUE, renamed
from nemo_bt.converters.options import average_options, export_options, import_options

_OVERRIDES = "Overrides are key=value, as Hydra's: nemo-bt help settings [word] lists them."
TOPICS = ("settings", "configs")
"""What `nemo-bt help` tells beside each command."""


def command_line() -> argparse.ArgumentParser:
    """Give the parser of every command."""
    parser = _Parser(prog="nemo-bt", description="Bradley-Terry reward models on NeMo and Megatron.")
    parser.add_argument("--version", action=_Version, nargs=0, help="of nemo_bt and what it builds on")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_of_training(commands)
    _add_of_models(commands)
    _add_of_runs(commands)
    return parser


def _add(commands: Any, name: str, what: str, described: str | None = None) -> argparse.ArgumentParser:
    """Add a command, with examples in its help."""
    lines = "".join(f"\n  {line}" for line in EXAMPLES[name])
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=described,
        epilog=f"example{'s' * (len(EXAMPLES[name]) > 1)}:{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _with_settings(command: argparse.ArgumentParser, config_name: str | None) -> None:
    """Let a command take settings, behind its own arguments."""
    command.description = _OVERRIDES
    command.add_argument("--config-name", default=config_name, help="a configuration: nemo-bt help configs lists them")
    command.add_argument("--config-dir", help="a folder with configurations of your own")
    command.add_argument("--cfg", action="store_true", help="print the composed configuration, and end")
    command.add_argument("overrides", nargs="*", metavar="key=value")


def _add_of_training(commands: Any) -> None:
    train = _add(commands, "train", "train a reward model")
    train.add_argument("--dry-run", action="store_true", help="check model, data and layout, count memory, and end")
    data = _add(commands, "data", "tokenise, show or count preference data")
    data.add_argument("action", choices=("build", "show", "stats"))
    data.add_argument("--pairs", type=int, default=2, help="show: pairs of each set")
    data.add_argument("--picture", type=Path, help="stats: a file for a histogram of the lengths")
    validation = _add(commands, "validate", "validate a model, without training")
    nodes = _add(commands, "check-nodes", "compare the nodes of a Slurm job")
    for command in (train, data, validation, nodes):
        _with_settings(command, "train")
    plan = _add(commands, "plan", "memory and time of every layout on a cluster")
    plan.add_argument("--json", action="store_true", help="everything, for programs")
    plan.add_argument("--rows", type=int, default=20, help="rows of each table")
    plan.add_argument("--trace", action="store_true", help="run this layout's steps without a GPU, as one of its ranks")
    plan.add_argument("--rank", type=int, help="--trace: a rank of the job; without it, the one with most memory")
    _with_settings(plan, "plan")


def _add_of_models(commands: Any) -> None:
    score = _add(commands, "score", "rewards of rows that exist")
    score.add_argument("--normalize", action="store_true", help="score.normalize=true")
    _with_settings(score, "score")
    _with_settings(_add(commands, "evaluate", "accuracy on pairs, benchmarks, or answers of known quality"), "evaluate")
    _with_settings(_add(commands, "label", "feedback to train on, from samples that it scores"), "label")
    _with_settings(_add(commands, "serve", "a scoring server"), "serve")
    export_options(_add(commands, "export", "a .nemo -> a Hugging Face folder for transformers"))
    import_options(_add(commands, "import", "a Hugging Face folder -> a reward .nemo"))
    average_options(_add(commands, "average", "the mean of reward models, or of a run's last checkpoints"))
    fetch = _add(commands, "fetch", "bring models and data of the hub to a cache, for nodes without a network")
    kinds = ("train", "score", "evaluate", "label", "serve")
    fetch.add_argument("--for", dest="kind", choices=kinds, default="train", help="whose settings these are")
    _with_settings(fetch, None)


def _add_of_runs(commands: Any) -> None:
    report = _add(commands, "report", "a page about a run and its model", _OVERRIDES)
    report.add_argument("log_dir", type=Path, help="exp_manager.explicit_log_dir of the run")
    report.add_argument("overrides", nargs="*", metavar="key=value", help="of the run's config.yaml: a layout, say")
    report.add_argument("--checkpoint", type=Path, help="the newest of the run, if none is named")
    report.add_argument("--results", type=Path, action="append", default=[], help="evaluate.output, to be shown too")
    report.add_argument("--without-model", action="store_true", help="what is logged, alone: nothing is scored")
    status = _add(commands, "status", "where a run is, from its log directory")
    status.add_argument("log_dir", type=Path, help="exp_manager.explicit_log_dir of the run")
    status.add_argument("--verify", action="store_true", help="read every file of every checkpoint")
    help_ = _add(commands, "help", "every setting, every configuration, or a command")
    topics = (*TOPICS, *sorted(EXAMPLES))
    what = "settings, configs, or a command"
    help_.add_argument("topic", nargs="?", choices=topics, metavar="topic", help=what)
    help_.add_argument("words", nargs="*", metavar="word", help="settings: only those that have it in key or meaning")


class _Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in the first line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> None:
        on = ", ".join(f"{name} {version(name)}" for name in ("nemo_toolkit", "megatron-core", "torch", "transformers"))
        print(f"nemo_bt {version('nemo_bt')} ({on}, Python {sys.version.split()[0]})")
        parser.exit()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one command, with `overrides`, and `argv` as it came.

    Raises:
        SystemExit: there is no such command or option; 0 for --help.
    """
    parser = command_line()
    if "_ARGCOMPLETE" in os.environ:
        from nemo_bt.cli.completion import complete

        complete(parser)
    args, more = parser.parse_known_args(argv)  # argparse takes overrides on one side of an option only
    takes_overrides = hasattr(args, "overrides")
    unknown = [word for word in more if word.startswith("-") or not takes_overrides]
    if any(word.startswith("-") for word in unknown):
        unknown = [word for word in unknown if word.startswith("-")]
    if unknown:
        parser.error("\n".join(_unknown(word, argv, args.command, takes_overrides) for word in unknown))
    args.argv = list(argv)
    if args.command == "fetch" and args.config_name is None:
        args.config_name = args.kind
    args.overrides = [*getattr(args, "overrides", []), *more]
    for word, behind in zip(args.overrides, [*args.overrides[1:], "..."], strict=False):
        if "=" not in word and not word.startswith("~"):
            parser.error(f"expected key=value, got {word}: type {_key_of(word)}={word if _is_file(word) else behind}")
    if getattr(args, "normalize", False):
        args.overrides.append("score.normalize=true")
    return args


def _is_file(word: str) -> bool:
    return "/" in word or Path(word).suffix in (".parquet", ".jsonl", ".json", ".csv", ".nemo") or Path(word).exists()


def _key_of(word: str) -> str:
    """Name the setting that a bare word is meant for: a model, or a file of pairs."""
    if not _is_file(word):
        return word
    is_data = Path(word).suffix in (".parquet", ".jsonl", ".json", ".csv")
    return "model.data.train" if is_data else "model.restore_from_path"


def _unknown(word: str, argv: Sequence[str], command: str, takes_overrides: bool) -> str:
    """Say of a word that no option is what to type in its place."""
    if not word.startswith("-"):
        return f"unknown argument {word}"
    behind = [*argv, "..."][list(argv).index(word) + 1]
    if takes_overrides:
        return f"unknown option {word}{_instead(word, behind, command)}"
    (commands,) = (action for action in command_line()._actions if isinstance(action, argparse._SubParsersAction))
    known = [option for action in commands.choices[command]._actions for option in action.option_strings]
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return f"unknown option {word}{f'. Did you mean {near[0]}?' if near else ''}"


def _instead(word: str, value: str, command: str) -> str:
    """Say what to type in the place of an option that is a setting, here or in another trainer."""
    key, _, given = word.lstrip("-").partition("=")
    value = given or ("..." if value.startswith("-") else value)
    here = renamed(key)
    if here and here.startswith("nothing: "):
        return f": leave it out, {here.partition(': ')[2]}"
    if here:
        value = value if key.replace("-", "_") in SAME_VALUE else "..."
        return f": settings have no dashes, type {here if '=' in here else f'{here}={value}'}"
    from nemo_bt.cli.kinds import kind_of
    from nemo_bt.config.messages import nearest

    key = key.replace("-", "_") if "." not in key else key
    key = "model.restore_from_path" if key == "model" else key
    near = key if "." in key else nearest(key, key, kind_of(command))
    return f": settings have no dashes, type {near}={value}" if near else ""

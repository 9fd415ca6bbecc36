"""nemo-bt help: settings and their meaning, configurations, and the help of each command."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nemo_bt.cli.arguments import command_line
from nemo_bt.cli.kinds import kind_of
from nemo_bt.config.data import SourceSettings
from nemo_bt.config.describe import Described, all_described, described
from nemo_bt.config.foreign_names import renamed
from nemo_bt.config.shipped import SHIPPED, choices, config_names, groups
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal

_COMMANDS = ("train", "plan", "score", "evaluate", "label", "serve")
_INDENT = "    "


def show_help(topic: str | None, words: Sequence[str], terminal: Terminal) -> None:
    """Print what is asked for; a topic that is none of TOPICS is a command.

    Raises:
        UserError: no setting has all the words.
    """
    if topic == "settings":
        _settings(words, terminal)
    elif topic == "configs":
        _configs(terminal)
    else:
        command_line().parse_args([topic, "--help"] if topic else ["--help"])


def _settings(words: Sequence[str], terminal: Terminal) -> None:
    other = renamed("_".join(words)) if words else None
    key = other.partition("=")[0] if other else None
    found = [(commands, one) for commands, one in _every_setting() if _has(one, words) or one.key == key]
    if other:
        terminal.line(f"{' '.join(words)}, of another trainer, is here {other}\n")
    if not found and not other:
        raise UserError(f"no setting has {' '.join(words)} in its key or meaning. nemo-bt help settings lists all.")
    for commands, one in found:
        of = "" if "train" in commands else f"  ({', '.join(commands)})"
        terminal.line(f"{one.key} = {one.default}  [{one.values}]{of}")
        terminal.line(textwrap.fill(one.meaning, 110, initial_indent=_INDENT, subsequent_indent=_INDENT))


def _every_setting() -> Iterator[tuple[list[str], Described]]:
    """Give each setting once, with the commands that take it."""
    by_key: dict[str, tuple[list[str], Described]] = {}
    for command in _COMMANDS:
        for one in all_described(kind_of(command)):
            by_key.setdefault(one.key, ([], one))[0].append(command)
    own = {
        one.key.rsplit(".", 1)[-1] for one in all_described(kind_of("train"), "") if one.key.startswith("model.data")
    }
    for one in described(SourceSettings):
        if one.key not in own:
            others = "" if one.key == "path" else "path: ..., "
            key = f"model.data.train=[{{{others}{one.key}: ...}}]"
            by_key[key] = (["train"], replace(one, key=key))
    yield from by_key.values()


def _has(one: Described, words: Sequence[str]) -> bool:
    text = f"{one.key} {one.meaning}".lower()
    return all(word.lower() in text for word in words)


def _configs(terminal: Terminal) -> None:
    terminal.line("Whole configurations, for --config-name:")
    for name in config_names(SHIPPED):
        terminal.line(f"{_INDENT}{name}{_first_comment(name)}")
    for group in groups():
        terminal.line(f"Choices of {group}, as {group}={choices(group, [SHIPPED])[0]}:")
        for choice in choices(group, [SHIPPED]):
            terminal.line(f"{_INDENT}{choice}{_first_comment(f'{group}/{choice}')}")


def _first_comment(name: str) -> str:
    """Give what a file says of itself in its first sentence."""
    lines = (SHIPPED / f"{name}.yaml").read_text().splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
    first = re.split(r"[:.,] ", comments[0])[0].rstrip(".") if comments else ""
    return f"  {first}" if first else ""

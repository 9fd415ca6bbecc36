"""Completion of what is typed in a shell, by argcomplete: `eval "$(register-python-argcomplete nemo-bt)"`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import argcomplete

from nemo_bt.cli.kinds import kind_of
from nemo_bt.config.messages import all_keys, resolve, without_none
from nemo_bt.config.shipped import SHIPPED, choices, config_names, groups


def complete(parser: argparse.ArgumentParser) -> None:
    """Print what can be typed next, and exit; argcomplete has set the variables that say where."""
    for command in next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices.values():
        for action in command._actions:
            if action.dest == "overrides":
                action.completer = _overrides
            elif action.dest == "config_name":
                action.completer = _configs
    argcomplete.autocomplete(parser)


def _configs(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    own = config_names(Path(parsed_args.config_dir)) if parsed_args.config_dir else []
    return [*config_names(SHIPPED), *own]


def _overrides(prefix: str, parsed_args: argparse.Namespace, **others: Any) -> list[str]:
    """List the keys that begin so, or the values of one that is whole."""
    key, is_whole, _value = prefix.partition("=")
    kind = kind_of(parsed_args.command)
    if not is_whole:
        return [f"{name}=" for name in (*groups(), *map(".".join, all_keys(kind))) if name.startswith(prefix)]
    return [f"{key}={value}" for value in _values(key, kind)]


def _values(key: str, kind: type) -> Iterator[str]:
    if key in groups():
        yield from choices(key, [SHIPPED])
        return
    path, type_at = resolve(kind, key.split("."))
    inner = without_none(type_at)
    if ".".join(map(str, path)) == key and get_origin(inner) is Literal:
        yield from map(str, get_args(inner))
    elif inner is bool:
        yield from ("true", "false")

"""The configurations that there are: whole ones for --config-name, and choices of a part, as model=llama3_8b."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

import nemo_bt.conf
from nemo_bt.errors import UserError

SHIPPED = Path(next(iter(nemo_bt.conf.__path__))).resolve()
_PACKAGE = re.compile(r"^# @package (\S+)", re.MULTILINE)
_WHOLE = ("", "recipe")
"""Folders of conf/ whose files are whole configurations; the files of the others are choices of a part."""


def config_names(folder: Path) -> list[str]:
    """List what --config-name takes from a folder."""
    files = [file for within in _WHOLE for file in sorted((folder / within).glob("*.yaml"))]
    return [str(file.relative_to(folder).with_suffix("")) for file in files]


def choices(group: str, folders: Iterable[Path]) -> list[str]:
    """List the choices of a part: the files in a folder of that name."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def groups() -> list[str]:
    """List the parts that have choices in conf/."""
    found = [folder.name for folder in sorted(SHIPPED.iterdir()) if any(folder.glob("*.yaml"))]
    return [name for name in found if name not in _WHOLE]


def check_config_name(name: str, config_dir: str | None) -> None:
    """Check that there is a configuration.

    Args:
        config_dir: the user's own folder, in which any file is one.

    Raises:
        UserError: there is none; names the nearest, and all.
    """
    folders = [SHIPPED, *([Path(config_dir)] if config_dir else [])]
    is_there = any((folder / f"{name.removesuffix('.yaml')}.yaml").is_file() for folder in folders)
    if is_there and not Path(name).is_absolute():
        return
    if config_dir and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir: there is no folder {config_dir}.")
    known = [one for folder in folders for one in config_names(folder)]
    near = [one for one in known if one.split("/")[-1] == name.split("/")[-1]]
    near = near or difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    as_path = Path(name)
    if as_path.suffix in (".yaml", ".yml") and as_path.is_file():
        hint = f" A file of your own: --config-dir {as_path.parent} --config-name {as_path.stem}"
    raise UserError(f"--config-name: there is no configuration {name}.{hint}\nThere are {', '.join(known)}.")


def check_choice(group: str, choice: str, config_dir: str | None) -> None:
    """Check that a part has a choice.

    Raises:
        UserError: it has none of that name, or the part is the folder of the recipes.
    """
    folders = [SHIPPED, *([Path(config_dir)] if config_dir else [])]
    there = choices(group, folders)
    if group in _WHOLE:
        near = difflib.get_close_matches(choice, there, n=1, cutoff=0.4) or there[:1]
        raise UserError(
            f"{group}={choice}: a recipe is a whole configuration. Type --config-name {group}/{near[0]}. There are "
            f"{', '.join(there)}."
        )
    if choice not in there and not choice.startswith(("[", "$")):
        hint = f" A pretrained model is model.restore_from_path={choice}" if group == "model" else ""
        hint = f" Preference files are model.data.train={choice}" if group == "data" else hint
        raise UserError(f"{group}={choice}: expected one of {', '.join(there)}.{hint}")


def choice_as_overrides(typed: str) -> list[str] | None:
    """Write the values of a choice of conf/, `group=choice`, as overrides in Hydra's grammar; None of any other.

    They go where the file's `# @package` says, or into the section of the group's name.

    Hydra itself looks for the choices of a configuration in a folder, as those of conf/recipe, below that folder alone.
    """
    group, _, choice = typed.partition("=")
    file = SHIPPED / group / f"{choice}.yaml"
    if not file.is_file():
        return None
    package = _PACKAGE.search(file.read_text())
    section = package[1] if package else group
    return [f"++{section}.{key}={_in_grammar(value)}" for key, value in yaml.safe_load(file.read_text()).items()]


def config_folders(name: str, config_dir: str | None) -> tuple[Path, list[Path]]:
    """Give the folder that has a configuration, and the other one to look for choices in, if there is one."""
    if not config_dir:
        return SHIPPED, []
    own = Path(config_dir).resolve()
    is_own = (own / f"{name.removesuffix('.yaml')}.yaml").is_file()
    return (own, [SHIPPED]) if is_own else (SHIPPED, [own])


def _in_grammar(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_in_grammar(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_in_grammar, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "\\'") + "'"
    return json.dumps(value)

"""What a user writes under model.data.train and validation -> sections with every key of SourceSettings."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import TypeAdapter

import nemo_bt.conf
from nemo_bt.config.data import RowSettings, SourceSettings
from nemo_bt.errors import UserError

_ROW_KEYS = tuple(field.name for field in fields(RowSettings))
_OWN_KEYS = {
    "name": None, "split": "train", "subset": None, "revision": None,
    "fraction": None, "repeat": None, "count": None, "weight": 1.0,
}  # fmt: skip


def complete_sources(data: dict[str, Any]) -> dict[str, Any]:
    """The section `model.data` with its sources written out.

    Args:
        data: as composed; `train` is a path, a source or a list of them, `validation` a dict of the same by name.

    Raises:
        UserError: a source with an unknown key or without a path; two of one list with the same name.
    """
    complete = data | {"train": _sources("model.data.train", data.get("train"), data)}
    if isinstance(data.get("validation"), dict):
        sets = {name: _sources(f"model.data.validation.{name}", v, data) for name, v in data["validation"].items()}
        complete["validation"] = sets
    return complete


def source_of(path: str, /, **keys: Any) -> SourceSettings:
    """A source with the shipped values, for code that has no configuration.

    Args:
        path: file, glob, URL or id of the hub.
        **keys: other keys of a source.
    """
    shipped = Path(next(iter(nemo_bt.conf.__path__))) / "model" / "base.yaml"
    data = yaml.safe_load(shipped.read_text())["data"]
    (complete,) = complete_sources(data | {"train": {"path": path, **keys}})["train"]
    return TypeAdapter(SourceSettings).validate_python(complete)


def _sources(key: str, given: Any, data: dict[str, Any]) -> Any:
    several = given if isinstance(given, list) else [given]
    if not all(isinstance(source, str | dict) for source in several):
        return given  # of another type: the message about that comes with all the others
    complete = [_complete(f"{key}[{i}]", source, data) for i, source in enumerate(several)]
    names = [source["name"] for source in complete]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{key}: several sources are called '{min(twice)}'. Give them names of their own.")
    return complete


def _complete(key: str, given: str | dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    source = {"path": given} if isinstance(given, str) else given
    allowed = [field.name for field in fields(SourceSettings)]
    for name in source:
        if name not in allowed:
            raise UserError(f"{key}: unknown key {name}. A source has {', '.join(allowed)}.")
    inherited = {name: data[name] for name in _ROW_KEYS if name in data}
    for section in ("pairs", "custom_cls"):
        own = source.get(section)
        if isinstance(own, dict):
            unknown = set(own) - set(inherited[section])
            if unknown:
                raise UserError(f"{key}: unknown key {section}.{min(unknown)}. It has {', '.join(inherited[section])}.")
            source = source | {section: inherited[section] | own}
    complete = inherited | _OWN_KEYS | source
    paths = complete.get("path")
    complete["path"] = [paths] if isinstance(paths, str) else paths
    if not isinstance(complete["path"], list) or not complete["path"]:
        raise UserError(f"{key}: expected a path, got {given!r}. Give a file, a glob or a data set of the hub.")
    if complete["name"] is None:
        complete["name"] = PurePosixPath(str(complete["path"][0])).name.split(".")[0].strip("*") or "data"
    return complete

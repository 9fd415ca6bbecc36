"""What a user has given for the sources of data, before it is checked: one for a list, names, what is inherited."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic_core import ArgsKwargs


def as_list(given: Any) -> Any:
    """Take one for a list of one."""
    return given if isinstance(given, list) else [given] if isinstance(given, str | dict) else given


def name_of(path: str) -> str:
    """Name a source by its file: data/hh.val.jsonl is hh."""
    return PurePosixPath(path).name.split(".")[0].strip("*") or "data"


def keys_of(given: Any) -> dict[str, Any] | None:
    """Give what a section is made from, by key; None where that is something else."""
    if isinstance(given, ArgsKwargs):
        return dict(given.kwargs or {})
    if isinstance(given, str):
        return {"path": given}
    return dict(given) if isinstance(given, dict) else None


def as_sets(given: Any) -> Any:
    """Name validation sets that are given without names by their files; what has names stays as it is.

    Raises:
        ValueError: two have the same name.
    """
    if isinstance(given, dict) and "path" not in given:
        return given
    sets: dict[str, Any] = {}
    for source in as_list(given) if isinstance(given, str | dict | list) else []:
        paths = as_list(source.get("path") if isinstance(source, dict) else source)
        if not isinstance(paths, list) or not paths or not isinstance(paths[0], str):
            return given
        name = (source.get("name") if isinstance(source, dict) else None) or name_of(paths[0])
        if name in sets:
            raise ValueError(f"two validation sets are called '{name}'. Give names: model.data.validation.<name>=...")
        sets[name] = source
    return sets or given


def completed(sources: Any, inherited: dict[str, Any]) -> Any:
    """Complete what a user has written; what is complete already, or no source at all, stays as it is."""
    several = as_list(sources)
    if not isinstance(several, list):
        return sources
    return [_complete(source, inherited) if isinstance(source, str | dict) else source for source in several]


def _complete(source: str | dict[str, Any], inherited: dict[str, Any]) -> dict[str, Any]:
    given = {"path": source} if isinstance(source, str) else source
    sections = {}
    for name in ("pairs", "custom_cls"):
        above = inherited.get(name, {})
        own = given.get(name)
        if isinstance(own, dict):
            sections[name] = (asdict(above) if is_dataclass(above) and not isinstance(above, type) else above) | own
    return inherited | given | sections

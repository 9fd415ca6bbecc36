"""What every setting is: default, values and meaning, read from the dataclasses and the text under each field."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nemo_bt.config.messages import choices_of, range_of, without_none


@dataclass(frozen=True)
class Described:
    """One setting.

    Args:
        key: as it is typed, with dots.
        default: as YAML has it; "needed" where there is none.
        values: type, choices and range in words.
        meaning: one or more sentences.
    """

    key: str
    default: str
    values: str
    meaning: str


def described(kind: type, prefix: str = "") -> Iterator[Described]:
    """Describe the fields of a dataclass that are no sections.

    Args:
        prefix: stands before each key.
    """
    hints = get_type_hints(kind, include_extras=True)
    meanings = meanings_of(kind)
    for field in fields(kind):
        if not is_dataclass(without_none(hints[field.name])):
            key = f"{prefix}{field.name}"
            yield Described(key, _default(field), _values(hints[field.name]), meanings[field.name])


def all_described(kind: type, prefix: str = "") -> Iterator[Described]:
    """Describe every setting of a dataclass of sections, section by section."""
    yield from described(kind, prefix)
    for name, section in sections(kind):
        yield from all_described(section, f"{prefix}{name}.")


def sections(kind: type) -> Iterator[tuple[str, type]]:
    """List the fields of a dataclass that are sections, with their dataclasses."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        section = hints[field.name]
        if isinstance(section, type) and is_dataclass(section):
            yield field.name, section


def meanings_of(kind: type) -> dict[str, str]:
    """Give the text under each field, the inherited ones too."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(owner))).body)  # type: ignore[attr-defined]
        for line, below in pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(line.target, ast.Name):
                found[line.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def _default(field: Field[Any]) -> str:
    default: Any = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    elif getattr(default, "default_factory", None) is not None:
        default = default.default_factory()
    if default is MISSING:
        return "needed"
    return default if isinstance(default, str) and default else json.dumps(default)


def _values(kind: Any) -> str:
    inner = without_none(kind)
    or_null = "; or null" if type(None) in get_args(kind) else ""
    if get_origin(inner) is Literal:
        return choices_of(kind)
    if get_origin(inner) in (list, dict):
        return ("list" if get_origin(inner) is list else "section") + or_null
    if inner is bool:
        return "true or false"
    names = {int: "integer", float: "number", str: "text", list: "list", dict: "section", bool: "true or false"}
    parts = [inner] if inner in names else get_args(inner)
    plain = map(without_none, parts)
    name = " or ".join(names[get_origin(part) or part] for part in plain)
    bounds = range_of(kind)
    return name + (f", {bounds}" if bounds != "a number" else "") + or_null

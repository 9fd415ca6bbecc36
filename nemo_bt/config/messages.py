"""What pydantic found wrong -> a message: which key, what was expected, what was given, what to type instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Tag, ValidationError
from pydantic.fields import FieldInfo

from nemo_bt.config.foreign_names import VALUES, renamed
from nemo_bt.config.model import Settings

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_NO_SECTION = ("dataclass_type", "dict_type", "model_type", "model_attributes_type")
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
_ALIKE = 0.6
"""Share of letters that a name and its misspelling have in common, as difflib counts it."""
_OF_SOURCE = re.compile(r"model\.data\.(train|validation\.[^.[]+)\[\d+\]\.|evaluate\.input\.[^.[]+\.")


def explain(error: ValidationError, kind: type) -> str:
    """Say what was expected of every key that is wrong, and what was given, a line for each.

    Args:
        error: what validating `kind`, the dataclass of all settings, raised.
    """
    told: dict[str, str] = {}
    for wrong in error.errors():
        path, type_at = resolve(kind, wrong["loc"])
        key = _key(path)
        if _OF_SOURCE.sub("model.data.", key) not in told:  # a source inherits mistakes too
            told.setdefault(key, _message(key, wrong, type_at, kind))
    return "\n".join(told.values())


def _message(key: str, wrong: Any, type_at: Any, kind: type) -> str:
    given = wrong["input"]
    what = wrong["type"]
    if what in _UNKNOWN:
        return unknown_key(key, given, kind)
    if what == "missing":
        section = _section(without_none(type_at))
        has = fields(section) if section else ()
        needed = [f"{key}.{one.name}" for one in has if one.default is one.default_factory is MISSING] or [key]
        of_source = f" Type {key.partition('[')[0]}={{path: ..., ...}}" if key.endswith("].path") else ""
        give = {name: of_source if "[" in key else f" Give {name}=..." for name in needed}
        return "\n".join(f"{name}: expected a value, got none.{give[name]}" for name in needed)
    if what in _NO_SECTION:
        hint = " A folder or a hub id goes to model.restore_from_path" if key == "model.hf_config" else ""
        return f"{key}: expected a section of keys, got {given!r}.{hint}"
    if what in ("too_short", "string_too_short"):
        return f"{key}: expected {'a name' if isinstance(given, str) else 'at least one value'}, got {given!r}."
    if what == "literal_error":
        here = VALUES.get(str(given), "")
        hint = f" Type {here}" if here in map(str, get_args(without_none(type_at))) else ""
        return f"{key}: expected {choices_of(type_at)}, got {given}.{hint}"
    if what in _OUT_OF_RANGE:
        return f"{key}: expected {range_of(type_at)}, got {given}."
    if what == "value_error":
        text = str(wrong["ctx"]["error"])
        is_complete = any(word in text for word in ("got ", "both set", "called"))
        return f"{key}: {text}." if is_complete else f"{key}: {text}, got {given!r}."
    return f"{key}: {wrong['msg']}, got {given!r}."


def unknown_key(key: str, given: Any, kind: type) -> str:
    """Say of every unknown key that stands in a section which is none what to type, a line for each."""
    return "\n".join(_unknown(key, typed, kind) for typed in _typed(key, given))


def _typed(key: str, given: Any) -> Iterator[str]:
    """Give what was typed: where data.train=x is, data is what is unknown, and {"train": "x"} what is given."""
    if isinstance(given, dict) and given and not renamed(key):
        for name, inner in given.items():
            yield from _typed(f"{key}.{name}", inner)
    else:
        yield key


def _unknown(key: str, typed: str, kind: type) -> str:
    """Name what another trainer's key is here, the nearest key of its section or of all, or those of its section."""
    if renamed(typed):
        return _of_another_trainer(typed, str(renamed(typed)), kind)
    if kind is not Settings and any(f"{'.'.join(path)}.".startswith(f"{key}.") for path in all_keys(Settings)):
        return f"{typed} belongs to training; nothing depends on it here. Leave it out."
    near = nearest(key, typed, kind)
    if near:
        return f"unknown key {typed}. Did you mean {near}?"
    section = key.rpartition(".")[0]
    return f"unknown key {typed}. {section or 'The top'} has {', '.join(_names_in(section, kind))}."


def _names_in(section: str, kind: type) -> list[str]:
    steps = [int(step) if step.isdecimal() else step for step in re.findall(r"[^.[\]]+", section)]
    return [field.name for field in fields(without_none(resolve(kind, steps)[1]))]


def nearest(key: str, typed: str, kind: type) -> str | None:
    """Find the key that a misspelt one is nearest to: of its section, else of all.

    Args:
        key: the part of what was typed whose section exists.
        typed: all of it.
    """
    section, _, name = key.rpartition(".")
    has = _names_in(section, kind)
    rest = typed.removeprefix(key)
    near = [f"{section}.{other}{rest}".removeprefix(".") for other in difflib.get_close_matches(name, has, n=1)]
    if not near and "[" not in key:
        known = [".".join(path) for path in all_keys(kind)]
        own = {other.partition(".")[2] for other in known if other.startswith(("evaluate.", "label."))}
        known = [other for other in known if not (other.startswith("score.") and other[6:] in own)]
        same_name = [other for other in known if other.split(".")[-1] == typed.split(".")[-1]]
        alike = [other for other in known if _is_alike(other.split(".")[-1], typed.split(".")[-1])]
        near = difflib.get_close_matches(typed, same_name or alike, n=1, cutoff=0 if same_name else 0.5)
    return near[0] if near else None


def _is_alike(name: str, other: str) -> bool:
    return difflib.SequenceMatcher(None, name, other).ratio() >= _ALIKE


def _of_another_trainer(typed: str, here: str, kind: type) -> str:
    """Say what another trainer's key is here."""
    nothing, _, why = here.partition(": ")
    if nothing == "nothing":
        return f"unknown key {typed}. Leave it out: {why}."
    key = tuple(re.sub(r"\[\d+\]|=.*", "", here).split("."))
    if key not in all_keys(kind) and "[" not in here:
        return f"unknown key {typed}. It is {here} of training, and nothing depends on it here. Leave it out."
    return f"unknown key {typed}. Type {here}"


def all_keys(kind: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give the path of every key, section by section."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        section = _section(hints[field.name])
        if section is None:
            yield (*prefix, field.name)
        else:
            yield from all_keys(section, (*prefix, field.name))


def _section(kind: Any) -> type | None:
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def resolve(kind: Any, loc: Sequence[str | int]) -> tuple[list[str | int], Any]:
    """Follow a place through the types: names and positions, without pydantic's tags, and the type that is there."""
    path: list[str | int] = []
    current: Any = kind
    for step in loc:
        inner = without_none(current)
        tagged = {tag.tag: one for one in get_args(inner) for tag in _tags(one)}
        if step in tagged:
            current = tagged[str(step)]
            continue
        inner = next((one for one in map(without_none, tagged.values()) if get_origin(one) is dict), inner)
        if is_dataclass(inner) and isinstance(step, str):
            hints = get_type_hints(inner, include_extras=True)
            path.append(step)
            current = hints.get(step, Any)
        elif get_origin(inner) in (list, dict) and (isinstance(step, int) or get_origin(inner) is dict):
            path.append(step)
            current = get_args(inner)[-1]
    return path, current


def _tags(kind: Any) -> list[Tag]:
    return [of for of in getattr(kind, "__metadata__", ()) if isinstance(of, Tag)]


def without_none(kind: Any) -> Any:
    """Take Annotated and `| None` off a type."""
    if get_origin(kind) is Annotated:
        return without_none(get_args(kind)[0])
    rest = [part for part in get_args(kind) if part is not type(None)]
    return without_none(rest[0]) if type(None) in get_args(kind) and len(rest) == 1 else kind


def _key(path: Sequence[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def choices_of(kind: Any) -> str:
    """Name the values that a field takes."""
    names = [str(name) for name in get_args(without_none(kind))]
    if type(None) in get_args(kind):
        return f"{', '.join(names)} or null"
    return f"one of {', '.join(names)}"


def range_of(kind: Any) -> str:
    """Give the bounds of a number as a reader expects them: "more than 0", "1 or more", "[0, 0.5)"."""
    low = ""
    high = ""
    for bound in _bounds(kind):
        if isinstance(bound, Gt | Ge):
            low = f"{'(' if isinstance(bound, Gt) else '['}{_number(bound.gt if isinstance(bound, Gt) else bound.ge)}"
        else:
            high = f"{_number(bound.lt if isinstance(bound, Lt) else bound.le)}{')' if isinstance(bound, Lt) else ']'}"
    if low and high:
        return f"{low}, {high}"
    if not low:
        return "a number"
    return f"more than {low[1:]}" if low[0] == "(" else f"{low[1:]} or more"


def _bounds(kind: Any) -> list[Gt | Ge | Lt | Le]:
    found: list[Gt | Ge | Lt | Le] = []
    if get_origin(kind) is Annotated:
        inner, *extras = get_args(kind)
        found += _bounds(inner)
        for extra in extras:
            found += [
                bound
                for bound in (extra.metadata if isinstance(extra, FieldInfo) else [extra])
                if isinstance(bound, Gt | Ge | Lt | Le)
            ]
    elif get_origin(kind) not in (list, dict):
        for part in get_args(kind):
            found += _bounds(part)
    return found


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Values out of a row, each checked: a row may hold anything.

What is not there, or is none of its kind, raises RowError.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from nemo_bt.data.read.drop_report import RowError

_LARGEST = float(np.finfo(np.float32).max)


def value_at(row: dict[str, Any], key: str) -> Any:
    """Find what is under a key, or under a path of keys and list positions with dots: `rating.0`, `answer.label`.

    A key that ends in a star is the list of the columns that have a number there: `response_*`.
    """
    value = row.get(key)
    if value is None and key.endswith("*"):
        numbers = sorted(int(name[len(key) - 1 :]) for name in row if _is_numbered(name, key[:-1]))
        value = [row[f"{key[:-1]}{number}"] for number in numbers] or None
    if value is None and "." in key:
        value = row
        for part in key.split("."):
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                value = None
    if value is None:
        raise RowError("missing", f"no '{key}'")
    return value


def _is_numbered(name: str, start: str) -> bool:
    number = name[len(start) :]
    return name.startswith(start) and number.isdecimal() and str(int(number)) == number


def has_value(row: dict[str, Any], key: str) -> bool:
    """Tell whether `value_at` finds something."""
    try:
        value_at(row, key)
    except RowError:
        return False
    return True


def text_at(row: dict[str, Any], key: str) -> str:
    """Read a text."""
    return as_text(value_at(row, key), key)


def as_text(value: Any, key: str) -> str:
    """Check that a value is a text of Unicode characters."""
    if not isinstance(value, str):
        raise RowError("type", f"'{key}' is {type(value).__name__}, expected a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write
            raise RowError("unicode", f"'{key}': {error}") from error
    return value


def number_at(row: dict[str, Any], key: str) -> float:
    """Read a finite number."""
    return as_number(value_at(row, key), key)


def as_number(value: Any, key: str) -> float:
    """Check that a value is a finite number; texts of digits count, as UltraFeedback's ratings have them."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise RowError("type", f"'{key}' is {value!r}, expected a number") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError("type", f"'{key}' is {type(value).__name__}, expected a number")
    try:
        number = float(value)
    except OverflowError as error:
        raise RowError("type", f"'{key}' is too large") from error
    if not abs(number) <= _LARGEST:
        raise RowError("type", f"'{key}' is {number}, expected a finite number of 32 bits")
    return number


def list_at(row: dict[str, Any], key: str) -> list[Any]:
    """Read a list, or a text with one in JSON."""
    value = as_list(value_at(row, key))
    if isinstance(value, str):
        raise RowError("type", f"'{key}' is a text, expected a list")
    if not isinstance(value, list):
        raise RowError("type", f"'{key}' is {type(value).__name__}, expected a list")
    return value


def as_list(value: Any) -> Any:
    """Read a text with a list in JSON as that list; anything else stays as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) else value
    return value

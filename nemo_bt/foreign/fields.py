"""Tables of the types and ranges that fields of others' files may have, looked at before a library reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nemo_bt.errors import UserError

_LONGEST = 80
"""Characters of a value in a message."""


@dataclass(frozen=True)
class Field:
    """What a field may be; null is what a field that is not there has, and always fits.

    Args:
        expected: that, for messages.
        fits: tells whether a value is so.
        most: the largest number.
        why: what is wrong with a larger one.
    """

    expected: str
    fits: Callable[[Any], bool]
    most: float = math.inf
    why: str = ""


def whole(least: int, most: int, why: str) -> Field:
    """Describe a whole number from `least` to `most`."""
    return Field(f"a whole number from {least}", lambda value: type(value) is int and value >= least, most, why)


def real(above: float, most: float = math.inf, why: str = "") -> Field:
    """Describe a finite number above `above`."""
    expected = f"a finite number above {above:g}"
    return Field(expected, lambda value: type(value) in (int, float) and above < value < math.inf, most, why)


def list_of(kind: type | tuple[type, ...], named: str) -> Field:
    """Describe a list whose items are of a type."""
    return Field(
        f"a list of {named}", lambda value: isinstance(value, list) and all(isinstance(v, kind) for v in value)
    )


FLAG = Field("true or false", lambda value: isinstance(value, bool))
TEXT = Field("a text", lambda value: isinstance(value, str))
MAPPING = Field("a mapping", lambda value: isinstance(value, dict))


def check_fields(document: Mapping[str, Any], fields: Mapping[str, Field], where: str, mend: str) -> None:
    """Check the fields of a document that a table has; others are not looked at.

    Args:
        document: a JSON object, say.
        fields: by name.
        where: names the document in messages.
        mend: what to do, a sentence.

    Raises:
        UserError: a field is of another type, or outside of its range.
    """
    for name, field in fields.items():
        value = document.get(name)
        if value is None:
            continue
        if not field.fits(value):
            raise UserError(f"{where}: {name}: expected {field.expected}, got {told(value)}. {mend}")
        if field.most < math.inf and value > field.most:
            raise UserError(f"{where}: {name}: expected at most {field.most:,}: {field.why}; got {told(value)}. {mend}")


def told(value: Any) -> str:
    """Give a value for a message, not all of a long one."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**_LONGEST else "a larger number"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

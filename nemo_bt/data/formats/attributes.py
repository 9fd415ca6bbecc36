"""Attributes of a row's responses, as model.data.attribute_keys names them. NaN is a value that is not known."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.format import Format
from nemo_bt.data.formats.responses import PromptGroup
from nemo_bt.data.formats.values import as_list, as_number, has_value, value_at
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError

_UNKNOWN = ("", "N/A", "n/a", "NaN", "nan", "None")
"""How data sets write that an attribute is not known."""


def attributes_of(holder: dict[str, Any], keys: RowSettings) -> tuple[float, ...]:
    """Give the value of each attribute of one response; NaN where it is not there, or is said to be unknown."""
    return tuple(_known(_value(holder, str(key)), str(key)) for key in keys.attribute_keys.values())


def with_attributes_of_two(
    group: PromptGroup, row: dict[str, Any], keys: RowSettings, num_sides: tuple[int, int], is_swapped: bool
) -> PromptGroup:
    """Give the pairs that a row names with the attributes of their sides.

    Args:
        group: pairs of the responses of two columns.
        num_sides: how many responses the first and the second column have.
        is_swapped: whether those of the second are the chosen ones, and so stand first in the group.
    """
    if not keys.attribute_keys or group.given is None:
        return group
    of_columns = []
    for at, number in enumerate(num_sides):
        of_each = [_of_column(row, key, at, number) for key in keys.attribute_keys.values()]
        of_columns.append(list(zip(*of_each, strict=True)))
    return with_attributes(group, [one for of in (of_columns[::-1] if is_swapped else of_columns) for one in of])


def with_attributes(group: PromptGroup, of_sides: Sequence[tuple[float, ...]]) -> PromptGroup:
    """Give the pairs that a row names with the attributes of their sides, which stand in the order of `group.sides`."""
    given = [pair._replace(attributes=tuple(of_sides[side] for side in pair.sides)) for pair in group.given or ()]
    return replace(group, given=given)


def _of_column(row: dict[str, Any], key: str | list[str], at: int, num_sides: int) -> list[float]:
    """Read an attribute of the responses of the first (0) or of the second column (1)."""
    name = key if isinstance(key, str) else key[at]
    found = as_list(_value(row, name))
    if found is None:
        return [math.nan] * num_sides
    if isinstance(key, str):
        if not isinstance(found, list) or (len(found), num_sides) != (2, 1):
            raise RowError("type", f"'{name}' is {found!r:.40}, expected a value for each of two responses, in a list")
        found = [found[at]]
    values = found if isinstance(found, list) else [found]
    if len(values) != num_sides:
        raise RowError("type", f"'{name}' has {len(values)} values for {num_sides} responses")
    return [_known(value, name) for value in values]


def of_two(name: str, fitting: Mapping[str, Format], have: Collection[str], keys: RowSettings) -> list[str]:
    """Give the names of the formats that two columns of values can be read in; all, where no attribute has two.

    Args:
        name: names the file in messages.
        fitting: formats that the file may have.
        have: its columns.

    Raises:
        UserError: rows of these formats do not have two responses, or a column is not there.
    """
    given = {
        f"model.data.attribute_keys.{one}": key for one, key in keys.attribute_keys.items() if isinstance(key, list)
    }
    for setting, columns in given.items():
        if not any(form.second for form in fitting.values()):
            raise UserError(
                f"{name}: {setting}=[{','.join(columns)}]: two columns are for rows of two responses, and these have "
                f"format {next(iter(fitting))}. Give one column, or the field of completions that has the values."
            )
        missing = [column for column in columns if not {column, column.split(".")[0]} & set(have)]
        if missing and have:
            raise UserError(
                f"{name}: {setting}=[{','.join(columns)}], but there is no column {' or '.join(missing)}: found "
                f"{', '.join(sorted(have))}. Where other sources have them, set it in these alone."
            )
    return [one for one, form in fitting.items() if form.second or not given]


def _value(holder: dict[str, Any], key: str) -> Any:
    return value_at(holder, key) if has_value(holder, key) else None


def _known(value: Any, key: str) -> float:
    is_unknown = value is None or value in _UNKNOWN or (isinstance(value, float) and math.isnan(value))
    return math.nan if is_unknown else as_number(value, key)

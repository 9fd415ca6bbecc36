"""What fields of settings are made of: pydantic's checks, and the few of our own that a range cannot say."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Every section refuses an unknown key, and a number that is none."""

AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]
FromZero = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]


def _check_steps(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("expected 1 or more, or -1")
    return value


def _check_interval(value: float) -> float:
    if isinstance(value, float) and value > 1:
        raise ValueError("expected an int, or a fraction of the run")
    return value


def _check_limit(value: float) -> float:
    if isinstance(value, float) and value not in (0.0, 1.0):
        raise ValueError("expected an int, 0.0 or 1.0")
    return value


def _check_betas(value: list[float]) -> list[float]:
    if len(value) != 2 or not all(0 <= beta < 1 for beta in value):
        raise ValueError("expected two numbers in [0, 1)")
    return value


def _check_file_name(value: str) -> str:
    if "/" in value or not value:
        raise ValueError("expected a file name")
    return value


def seconds_of(value: str) -> float:
    """Read days:hours:minutes:seconds; "00:03:50:00" is 13,800 s.

    Raises:
        ValueError: the text is something else.
    """
    parts = value.split(":")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise ValueError("expected days:hours:minutes:seconds")
    days, hours, minutes, seconds = map(int, parts)
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _check_duration(value: str) -> str:
    seconds_of(value)
    return value


Steps = Annotated[int, AfterValidator(_check_steps)]
"""A number of steps, or -1."""
Interval = Annotated[int | float, Field(gt=0), AfterValidator(_check_interval)]
"""An int counts steps; a float in (0, 1] is a fraction of the run."""
Limit = Annotated[int | float, Field(ge=0), AfterValidator(_check_limit)]
"""An int counts batches; 1.0 is everything, 0 nothing."""
Betas = Annotated[list[float], AfterValidator(_check_betas)]
FileName = Annotated[str, AfterValidator(_check_file_name)]
Duration = Annotated[str, AfterValidator(_check_duration)]
AsText = BeforeValidator(str)
"""YAML reads 32 as a number; a precision is a text."""

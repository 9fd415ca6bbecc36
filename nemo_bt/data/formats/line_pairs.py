"""Neighbouring lines that are two answers to one prompt: they begin alike, and others do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo_bt.data.formats.responses import Chat, Side

_SHORTEST = 4
"""Characters that the texts of a pair have in common at least."""


def in_pairs(rows: Sequence[Any], column: str) -> bool:
    """Tell whether the first and the second row, the third and the fourth, ... begin alike, and neighbours less so."""
    texts = [row[column] for row in rows if isinstance(row, dict) and isinstance(row.get(column), str)]
    within = [_shared(*pair) for pair in zip(texts[::2], texts[1::2], strict=False)]
    across = [0, *(_shared(*pair) for pair in zip(texts[1::2], texts[2::2], strict=False)), 0]
    beside = [max(across[place : place + 2]) for place in range(len(within))]
    alike = sum(shared >= _SHORTEST and shared > less for shared, less in zip(within, beside, strict=True))
    return bool(within) and 5 * alike >= 4 * len(within)


def begin_alike(one: Side, other: Side) -> bool:
    """Tell whether two conversations can be answers to one prompt."""
    if isinstance(one, Chat) and isinstance(other, Chat):
        return one.messages[:1] == other.messages[:1]
    if isinstance(one, Chat) or isinstance(other, Chat):
        return False
    return _shared(one.prompt + one.response, other.prompt + other.response) >= _SHORTEST


def _shared(one: str, other: str) -> int:
    """Count the characters with which both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))

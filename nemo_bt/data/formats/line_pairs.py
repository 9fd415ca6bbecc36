"""Neighbouring lines that are two answers to one prompt: they begin alike, and others do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nemo_bt.data.formats.responses import Chat, Side, Text

_SHORTEST = 4
"""Characters that the texts of a pair have in common at least."""
_FEWEST = 16
"""Lines that tell whether most are pairs."""
_ANSWER = re.compile(
    r"<extra_id_1>\s*Assistant|<\|im_start\|>assistant|<\|start_header_id\|>assistant|<start_of_turn>model"
    r"|<\|assistant\|>|\[/INST\]|\bAssistant:"
)
"""Where the first answer begins in a text that a template has rendered. The two of a pair are alike up to there."""


def in_pairs(rows: Sequence[Any], column: str) -> bool:
    """Tell whether the first and the second row, the third and the fourth, ... begin alike, and neighbours less so."""
    texts = [row[column] for row in rows if isinstance(row, dict) and isinstance(row.get(column), str)]
    within = [_shared(*pair) for pair in zip(texts[::2], texts[1::2], strict=False)]
    across = [0, *(_shared(*pair) for pair in zip(texts[1::2], texts[2::2], strict=False)), 0]
    beside = [max(across[place : place + 2]) for place in range(len(within))]
    alike = sum(shared >= _SHORTEST and shared > less for shared, less in zip(within, beside, strict=True))
    return bool(within) and 5 * alike >= 4 * len(within)


def has_lost_track(rows: Sequence[Any], column: str) -> bool:
    """Tell whether later rows are no pairs any more. In texts with marks of turns, `begin_alike` finds each itself."""
    texts = [str(row.get(column)) for row in rows if isinstance(row, dict)]
    return len(texts) >= _FEWEST and not any(map(_ANSWER.search, texts)) and not in_pairs(rows, column)


def unlike(rows: Sequence[Any], column: str) -> int | None:
    """Find the first of two lines that should be a pair and have hardly anything in common; None where all have."""
    texts = [str(row.get(column)) if isinstance(row, dict) else "" for row in rows]
    places = range(0, len(texts) - 1, 2)
    return next((i for i in places if not begin_alike(Text("", texts[i]), Text("", texts[i + 1]))), None)


def begin_alike(one: Side, other: Side) -> bool:
    """Tell whether two conversations can be answers to one prompt."""
    if isinstance(one, Chat) and isinstance(other, Chat):
        return one.messages[:1] == other.messages[:1]
    if isinstance(one, Chat) or isinstance(other, Chat):
        return False
    text = one.prompt + one.response
    answer = _ANSWER.search(text)
    return _shared(text, other.prompt + other.response) >= (answer.end() if answer else _SHORTEST)


def _shared(one: str, other: str) -> int:
    """Count the characters with which both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))

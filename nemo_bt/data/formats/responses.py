"""One form for the rows of every format: responses to one prompt, and what is known about their order."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

Messages: TypeAlias = list[dict[str, Any]]
"""Turns with role and content, as chat templates take them."""


@dataclass(frozen=True)
class Text:
    """A conversation as plain text: what is judged, and what stands before it."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Chat:
    """A conversation in messages, the last of which is judged.

    Args:
        tools: functions that the assistant may call, as chat templates take them.
    """

    messages: Messages
    tools: list[Any] | None = None


Side: TypeAlias = Text | Chat
"""A whole conversation that ends with the response that is judged."""


class Preference(NamedTuple):
    """Sides that the loss sees together, by their positions in `PromptGroup.sides`: a pair, or a list.

    Args:
        sides: of a pair the chosen and the rejected one, of a list the best first.
        row: number in the file.
        margin: strength; None where nothing is known about it.
        weight: factor on the loss.
        scores: those of the sides, where they have any.
        preference: probability that the first of a pair is better.
        attributes: values of each side of a pair that rows name, NaN where one is not known; those of others stand in
            `PromptGroup.attributes`.
    """

    sides: tuple[int, ...]
    row: int
    margin: float | None = None
    weight: float = 1.0
    scores: tuple[float, ...] | None = None
    preference: float = 1.0
    attributes: tuple[tuple[float, ...], ...] = ()

    @property
    def chosen(self) -> int:
        """Position of the first side."""
        return self.sides[0]

    @property
    def rejected(self) -> int:
        """Position of the last side."""
        return self.sides[-1]


@dataclass
class PromptGroup:
    """Responses to one prompt, from one row or from several that follow each other.

    Attributes:
        sides: K whole conversations.
        rows: number in the file of the row that each came from.
        scores: one for each, higher is better; empty where the rows name pairs themselves.
        margins: strength of a preference for each, where the row has one.
        weights: factor on the loss of pairs in which each is chosen.
        given: pairs that the rows name; None leaves it to `model.data.pairs`.
        attributes: values of the attributes of each, NaN where one is not known; empty where none are read.
        compares_whole: whether conversations are compared whose earlier answers may differ too, as in an arena.
    """

    sides: list[Side]
    rows: list[int]
    scores: list[float] = field(default_factory=list)
    margins: list[float | None] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    given: list[Preference] | None = None
    attributes: list[tuple[float, ...]] = field(default_factory=list)
    compares_whole: bool = False

    def same_prompt(self, other: PromptGroup) -> bool:
        """Tell whether both answer the same prompt; texts whose prompt is not known do not."""
        if not self.sides or not other.sides:
            return False
        prompt = prompt_of(self.sides[0])
        is_known = bool(prompt.messages if isinstance(prompt, Chat) else prompt)
        return is_known and prompt == prompt_of(other.sides[0])

    def add(self, other: PromptGroup) -> None:
        """Take in the responses of a further row with the same prompt; a named one that is there already stays one."""
        if self.given is None or other.given is None:
            for name in ("sides", "rows", "scores", "attributes", "margins", "weights"):
                getattr(self, name).extend(getattr(other, name))
            return
        place = []
        for side, row in zip(other.sides, other.rows, strict=True):
            if side not in self.sides:
                self.sides.append(side)
                self.rows.append(row)
            place.append(self.sides.index(side))
        self.given += [pair._replace(sides=tuple(place[side] for side in pair.sides)) for pair in other.given]


def response_of(side: Side) -> str:
    """Give what is judged as a text: the last content, and the calls of functions behind it as JSON."""
    if isinstance(side, Text):
        return side.response
    last = side.messages[-1]
    calls = last.get("tool_calls")
    return (last.get("content") or "") + (json.dumps(calls) if calls else "")


def prompt_of(side: Side) -> str | Chat:
    """Give what stands before the response."""
    return side.prompt if isinstance(side, Text) else replace(side, messages=side.messages[:-1])

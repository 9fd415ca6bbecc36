"""One form for the rows of every format: responses to one prompt, and what is known about their order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Messages: TypeAlias = list[dict[str, str]]


@dataclass(frozen=True)
class Text:
    """A conversation as plain text: what is judged, and what stands before it."""

    prompt: str
    response: str


Side: TypeAlias = Text | Messages
"""A whole conversation that ends with the response that is judged."""


@dataclass
class Choices:
    """Responses to one prompt, from one row or from several that follow each other.

    Attributes:
        sides: K whole conversations.
        rows: number in the file of the row that each came from.
        scores: of each, higher is better; None where nothing is known but `given`.
        margins: strength of the preference for each when it is chosen; None takes the difference of scores, or 0.
        weights: factor on the loss of pairs in which each is chosen.
        given: pairs (chosen, rejected) that the rows name themselves; None leaves it to `model.data.pairs`.
    """

    sides: list[Side]
    rows: list[int]
    scores: list[float] | None = None
    margins: list[float | None] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    given: list[tuple[int, int]] | None = None

    def add(self, other: Choices) -> None:
        """Take in the responses of a further row with the same prompt; one that is there already stays one."""
        index = []
        for i, side in enumerate(other.sides):
            if other.given is not None and side in self.sides:
                index.append(self.sides.index(side))
                continue
            index.append(len(self.sides))
            self.sides.append(side)
            self.rows.append(other.rows[i])
            self.margins.append(other.margins[i])
            self.weights.append(other.weights[i])
            if self.scores is not None and other.scores is not None:
                self.scores.append(other.scores[i])
        if self.given is not None and other.given is not None:
            self.given += [(index[chosen], index[rejected]) for chosen, rejected in other.given]


def response_of(side: Side) -> str:
    """The text that is judged."""
    return side.response if isinstance(side, Text) else side[-1]["content"]


def prompt_of(side: Side) -> str | Messages:
    """What stands before it."""
    return side.prompt if isinstance(side, Text) else side[:-1]

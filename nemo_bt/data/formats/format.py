"""How a format says where its rows have what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.responses import PromptGroup

Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """A column that says which of two responses is better.

    Args:
        first: its values that say so of the first.
        second: its values that say so of the second.
        ties: its values that say neither.
    """

    column: str
    first: tuple[Any, ...]
    second: tuple[Any, ...]
    ties: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Format:
    """Where the rows of one format have what.

    Args:
        of: who publishes such rows.
        prompt: columns of the prompt, put together by newlines; a row may lack some. One may hold messages.
        history: column of earlier turns, [[instruction, answer], ...].
        system: column of a system message, where a row has one.
        first: column of a response, or of a list of them; without `verdict` and `strength` the chosen one.
        second: column of the other, or of a list of others.
        verdict: which of the two is better.
        strength: column of a signed strength: negative where the first is better.
        scores: columns of the scores of the two.
        conversation: column of a whole conversation, whose last turn is the response; with `second` it is the chosen.
        answers: column of a list of responses to the prompt.
        response: column of a single response, or field of `answers`, or of the entries of `first` and
            `second`.
        has_scores: whether responses have scores or ranks, as the settings name them; those without can only be scored.
        in_order: whether the first of `answers` is the chosen one.
        lines: neighbouring rows that make one prompt's responses, the best first.
        joins: whether neighbouring rows with the same prompt are put together.
        compares_whole: whether earlier answers of the two conversations may differ.
        kinds: column -> kinds of value (nemo_bt.data.formats.detect) that tell this format from others.
        only: column and value that every row has to have.
        parse: a function that reads the row in the place of the columns.
        others: the shape of rows that have no `first` and may stand between those that do.
    """

    of: str
    prompt: tuple[str, ...] = ()
    history: str = ""
    system: str = "<system>"
    first: str = ""
    second: str = ""
    verdict: Verdict | None = None
    strength: str = ""
    scores: tuple[str, str] | None = None
    conversation: str = ""
    answers: str = ""
    response: str = ""
    has_scores: bool = False
    in_order: bool = False
    lines: int = 1
    joins: bool = False
    compares_whole: bool = False
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    only: tuple[str, Any] | None = None
    parse: Callable[[Row, int, RowSettings, bool], PromptGroup] | None = None
    others: Format | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that it names itself, paths included, the prompt first."""
        names = [self.system, *self.prompt, self.history, self.conversation, self.first, self.second, self.answers]
        names += [self.response if not (self.answers or self.second) else "", self.strength]
        names += [self.verdict.column if self.verdict else "", *(self.scores or ()), *(self.only or ())[:1]]
        return [name for name in names if name]

    @property
    def is_preference(self) -> bool:
        """Whether its rows can be trained on."""
        return bool(self.second or self.has_scores or self.in_order or self.lines > 1 or self.parse)

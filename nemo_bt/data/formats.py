"""The row formats of the field, each a function: row -> Choices.

`chat` says whether the tokenizer renders messages. Where it does, texts with known turns become messages; where it does
not, they stay as they are. A row that cannot be used raises RowError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from nemo_bt.data.account import RowError
from nemo_bt.data.choices import Choices, Messages, Side, Text
from nemo_bt.data.settings import RowSettings
from nemo_bt.data.values import (
    as_conversation,
    as_messages,
    as_number,
    as_text,
    list_at,
    number_at,
    text_at,
    value_at,
)

Row: TypeAlias = dict[str, Any]
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Format:
    """How rows of one format are read.

    Args:
        parse: (row, its number, keys, chat) -> Choices.
        columns: the columns it reads; those that are optional end in "?".
        prompt_key: column whose equal neighbours belong together; None where that is never asked for.
        one_response: a row has one response, so that neighbours have to be put together.
    """

    parse: Callable[[Row, int, RowSettings, bool], Choices]
    columns: Callable[[RowSettings], list[str]]
    prompt_key: Callable[[RowSettings], str] | None = None
    one_response: bool = False


def _pair(row: Row, number: int, keys: RowSettings, chosen: Side, rejected: Side) -> Choices:
    """A row that says itself which response was chosen."""
    strength = _optional(row, keys.margin_key)
    if strength is not None and strength < 0:
        raise RowError("type", f"'{keys.margin_key}' is {strength}, expected 0 or more")
    return Choices(
        sides=[chosen, rejected],
        rows=[number, number],
        scores=_given_scores(row, keys),
        margins=[strength, None],
        weights=[_weight(row, keys), 1.0],
        given=[(0, 1)],
    )


def _given_scores(row: Row, keys: RowSettings) -> list[float] | None:
    if isinstance(keys.score_key, list):
        chosen, rejected = (number_at(row, key) for key in keys.score_key)
        if chosen < rejected:
            raise RowError(
                "type", f"{keys.score_key} are {chosen:g} and {rejected:g}: the chosen one has the lower score"
            )
        return [chosen, rejected]
    if isinstance(keys.score_key, str) and isinstance(row.get(keys.score_key), list):
        scores = [as_number(score, keys.score_key) for score in list_at(row, keys.score_key)]
        if len(scores) != 2:
            raise RowError("type", f"'{keys.score_key}' has {len(scores)} scores, expected two")
        return sorted(scores, reverse=True)
    return None


def _scored(row: Row, number: int, keys: RowSettings, sides: list[Side], scores: list[float]) -> Choices:
    margins = [_optional(row, keys.margin_key)] * len(sides)
    return Choices(sides, [number] * len(sides), scores, margins, [_weight(row, keys)] * len(sides))


def _weight(row: Row, keys: RowSettings) -> float:
    weight = _optional(row, keys.weight_key)
    if weight is not None and weight < 0:
        raise RowError("type", f"'{keys.weight_key}' is {weight}, expected 0 or more")
    return 1.0 if weight is None else weight


def _optional(row: Row, key: str | None) -> float | None:
    return None if key is None or key not in row else number_at(row, key)


def text(row: Row, number: int, keys: RowSettings, chat: bool) -> Choices:
    """`chosen` and `rejected` are whole texts."""
    chosen, rejected = (Text("", text_at(row, key)) for key in (keys.chosen_key, keys.rejected_key))
    return _pair(row, number, keys, chosen, rejected)


def hh(row: Row, number: int, keys: RowSettings, chat: bool) -> Choices:
    """`chosen` and `rejected` are transcripts with "Human:" and "Assistant:" turns, as hh-rlhf has them."""
    chosen, rejected = (_transcript(text_at(row, key), key, chat) for key in (keys.chosen_key, keys.rejected_key))
    return _pair(row, number, keys, chosen, rejected)


def _transcript(whole: str, key: str, chat: bool) -> Side:
    turns = list(_HH_TURN.finditer(whole))
    if not turns or turns[-1][1] != "Assistant" or whole[: turns[0].start()].strip():
        raise RowError("roles", f"'{key}' is no transcript that ends with an Assistant turn")
    if not chat:
        return Text(whole[: turns[-1].end()], whole[turns[-1].end() :])
    ends = [turn.start() for turn in turns[1:]] + [len(whole)]
    contents = [whole[turn.end() : end].strip() for turn, end in zip(turns, ends, strict=True)]
    return [{"role": _HH_ROLES[turn[1]], "content": c} for turn, c in zip(turns, contents, strict=True)]


def messages(row: Row, number: int, keys: RowSettings, chat: bool) -> Choices:
    """`chosen` and `rejected` are whole conversations as lists of messages."""
    chosen, rejected = (
        as_conversation(as_messages(list_at(row, key), key), key) for key in (keys.chosen_key, keys.rejected_key)
    )
    return _pair(row, number, keys, chosen, rejected)


def prompt(row: Row, number: int, keys: RowSettings, chat: bool) -> Choices:
    """`prompt` with `chosen` and `rejected`, each a text or messages."""
    chosen, rejected = (_answered(row, value_at(row, key), keys, chat) for key in (keys.chosen_key, keys.rejected_key))
    return _pair(row, number, keys, chosen, rejected)


def _answered(row: Row, answer: Any, keys: RowSettings, chat: bool) -> Side:
    """One answer behind the row's prompt; an answer that has the prompt in it already stays as it is."""
    if isinstance(answer, list | dict):
        said = as_messages(answer, "answer")
        if said and said[0]["role"] != "assistant":
            return as_conversation(said, "answer")
    else:
        said = [{"role": "assistant", "content": as_text(answer, "answer")}]
    before = value_at(row, keys.prompt_key)
    system = keys.system_key and row.get(keys.system_key)
    if isinstance(before, list):
        return as_conversation(as_messages(before, keys.prompt_key) + said, keys.prompt_key)
    if not chat and len(said) == 1:
        before = as_text(before, keys.prompt_key)
        return Text(f"{as_text(system, 'system')}\n\n{before}" if system else before, said[0]["content"])
    first: Messages = [{"role": "system", "content": as_text(system, "system")}] if system else []
    return as_conversation([*first, {"role": "user", "content": as_text(before, keys.prompt_key)}, *said], "answer")


def ranked(row: Row, number: int, keys: RowSettings, chat: bool) -> Choices:
    """`prompt` with a list of `completions` and their scores or ranks, in the completions or in lists beside them."""
    completions = list_at(row, keys.completions_key)
    answers = [value_at(c, keys.response_key) if _has(c, keys.response_key) else c for c in completions]
    sides = [_answered(row, answer, keys, chat) for answer in answers]
    in_each = bool(completions) and all(isinstance(c, dict) and "role" not in c for c in completions)
    beside = [{name: values[i] for name, values in _lists(row).items() if i < len(values)} for i in range(len(sides))]
    holders = completions if in_each else beside
    return _scored(row, number, keys, sides, [_score(holder, keys) for holder in holders])


def _has(completion: Any, key: str) -> bool:
    return isinstance(completion, dict) and key in completion


def _lists(row: Row) -> dict[str, list[Any]]:
    return {name: value for name, value in row.items() if isinstance(value, list)}


def _score(holder: Row, keys: RowSettings) -> float:
    """Higher is better: a score, the weighted mean of several, or minus a rank."""
    if isinstance(keys.score_key, dict):
        total = sum(weight * number_at(holder, key) for key, weight in keys.score_key.items())
        return total / sum(keys.score_key.values())
    names = [keys.score_key] if isinstance(keys.score_key, str) else keys.score_key
    plural = [f"{name}s" for name in names]
    for name in (*names, *plural):
        if name in holder:
            return number_at(holder, name)
    rank = keys.rank_key if keys.rank_key in holder else f"{keys.rank_key}s"
    return -number_at(holder, rank)


def scored(row: Row, number: int, keys: RowSettings, chat: bool) -> Choices:
    """One `response` a row with its scores, as HelpSteer has them; rows that follow each other share the prompt."""
    return _scored(
        row, number, keys, [_answered(row, value_at(row, keys.response_key), keys, chat)], [_score(row, keys)]
    )

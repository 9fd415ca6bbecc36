"""The row formats of the field, each a function: row -> PromptGroup.

`chat` says whether the tokenizer renders messages. Where it does, texts with known turns become messages; where it does
not, they stay as they are. A row that cannot be used raises RowError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.responses import Messages, Preference, PromptGroup, Side, Text
from nemo_bt.data.formats.values import (
    as_conversation,
    as_messages,
    as_number,
    as_text,
    has_value,
    list_at,
    number_at,
    text_at,
    value_at,
)
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError

Row: TypeAlias = dict[str, Any]
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Format:
    """How rows of one format are read.

    Args:
        parse: (row, its number, keys, chat) -> PromptGroup.
        columns: the columns it reads, where they are there.
        one_response: whether a row has one response, so that neighbours have to be put together.
    """

    parse: Callable[[Row, int, RowSettings, bool], PromptGroup]
    columns: Callable[[RowSettings], list[str]]
    one_response: bool = False


def _pair(row: Row, number: int, keys: RowSettings, chosen: Side, rejected: Side) -> PromptGroup:
    """Make the pair of a row that says itself which response was chosen."""
    pair = Preference(0, 1, number, _not_negative(row, keys.margin_key), _weight(row, keys), _given_scores(row, keys))
    return PromptGroup([chosen, rejected], [number, number], given=[pair])


def _given_scores(row: Row, keys: RowSettings) -> tuple[float, float] | None:
    if isinstance(keys.score_key, list):
        chosen, rejected = (number_at(row, key) for key in keys.score_key)
        if chosen < rejected:
            raise RowError(
                "type", f"{keys.score_key} are {chosen:g} and {rejected:g}: the chosen one has the lower score"
            )
        return chosen, rejected
    if isinstance(keys.score_key, str) and isinstance(row.get(keys.score_key), list):
        scores = [as_number(score, keys.score_key) for score in list_at(row, keys.score_key)]
        if len(scores) != 2:
            raise RowError("type", f"'{keys.score_key}' has {len(scores)} scores, expected two")
        return max(scores), min(scores)
    return None


def _scored(row: Row, number: int, keys: RowSettings, sides: list[Side], scores: list[float]) -> PromptGroup:
    margins = [_not_negative(row, keys.margin_key)] * len(sides)
    return PromptGroup(sides, [number] * len(sides), scores, margins, [_weight(row, keys)] * len(sides))


def _weight(row: Row, keys: RowSettings) -> float:
    weight = _not_negative(row, keys.weight_key)
    return 1.0 if weight is None else weight


def _not_negative(row: Row, key: str | None) -> float | None:
    """Read a number of 0 or more; None where the column is not there, or null in this row."""
    if key is None or not has_value(row, key):
        return None
    number = number_at(row, key)
    if number < 0:
        raise RowError("type", f"'{key}' is {number}, expected 0 or more")
    return number


def text(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read `chosen` and `rejected` as whole texts."""
    chosen, rejected = (Text("", text_at(row, key)) for key in (keys.chosen_key, keys.rejected_key))
    return _pair(row, number, keys, chosen, rejected)


def hh(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read `chosen` and `rejected` as transcripts with "Human:" and "Assistant:" turns, as hh-rlhf has them."""
    chosen, rejected = (transcript(text_at(row, key), key, chat) for key in (keys.chosen_key, keys.rejected_key))
    return _pair(row, number, keys, chosen, rejected)


def is_transcript(value: Any) -> bool:
    """Tell whether a value looks like a transcript of hh-rlhf."""
    return isinstance(value, str) and value.startswith("\n\nHuman:") and "\n\nAssistant:" in value


def transcript(whole: str, key: str, chat: bool) -> Side:
    """Turn a transcript of hh-rlhf into messages, or into a text where there is no template for them."""
    turns = list(_HH_TURN.finditer(whole))
    if not turns or turns[-1][1] != "Assistant" or whole[: turns[0].start()].strip():
        raise RowError("roles", f"'{key}' is no transcript that ends with an Assistant turn")
    if not chat:
        return Text(whole[: turns[-1].end()], whole[turns[-1].end() :])
    ends = [turn.start() for turn in turns[1:]] + [len(whole)]
    contents = [whole[turn.end() : end].strip() for turn, end in zip(turns, ends, strict=True)]
    return [{"role": _HH_ROLES[turn[1]], "content": c} for turn, c in zip(turns, contents, strict=True)]


def messages(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read `chosen` and `rejected` as whole conversations, lists of messages."""
    chosen, rejected = (
        as_conversation(as_messages(list_at(row, key), key), key) for key in (keys.chosen_key, keys.rejected_key)
    )
    return _pair(row, number, keys, chosen, rejected)


def prompt(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read a `prompt` with `chosen` and `rejected`, each a text or messages."""
    chosen, rejected = (answered(row, value_at(row, key), keys, chat) for key in (keys.chosen_key, keys.rejected_key))
    return _pair(row, number, keys, chosen, rejected)


def answered(row: Row, answer: Any, keys: RowSettings, chat: bool) -> Side:
    """Put one answer behind the row's prompt; an answer that has the prompt in it already stays as it is."""
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


def ranked(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read a `prompt` with a list of `completions`; scores or ranks stand in these or in lists beside them."""
    completions = list_at(row, keys.completions_key)
    sides = answers(row, keys, chat)
    if completions and all(isinstance(c, dict) and "role" not in c for c in completions):
        holders: list[Row] = completions
    else:
        holders = [{} for _ in sides]
        for name, values in row.items():
            if isinstance(values, list) and name in score_columns(keys):
                if len(values) != len(sides):
                    raise RowError("type", f"'{name}' has {len(values)} values for {len(sides)} completions")
                for holder, value in zip(holders, values, strict=True):
                    holder[name] = value
    return _scored(row, number, keys, sides, [_score(holder, keys) for holder in holders])


def answers(row: Row, keys: RowSettings, chat: bool) -> list[Side]:
    """Make whole conversations: the row's prompt with each of its `completions`."""
    return [answered(row, answer, keys, chat) for answer in completions_of(row, keys)]


def completions_of(row: Row, keys: RowSettings) -> list[Any]:
    """Give each of a row's `completions`, or its field with the response."""
    completions = list_at(row, keys.completions_key)
    return [value_at(c, keys.response_key) if _has(c, keys.response_key) else c for c in completions]


def _has(completion: Any, key: str) -> bool:
    return isinstance(completion, dict) and has_value(completion, key)


def score_columns(keys: RowSettings) -> list[str]:
    """List the names under which scores and ranks are looked for."""
    names = [keys.score_key] if isinstance(keys.score_key, str) else list(keys.score_key)
    return [name for key in (*names, keys.rank_key) for name in (key, f"{key}s")]


def _score(holder: Row, keys: RowSettings) -> float:
    """Give a score, the weighted mean of several, or minus a rank: higher is better."""
    if isinstance(keys.score_key, dict):
        total = sum(weight * number_at(holder, key) for key, weight in keys.score_key.items())
        return total / sum(abs(weight) for weight in keys.score_key.values())
    if isinstance(keys.score_key, list):
        raise UserError(
            f"model.data.score_key={keys.score_key}: two columns are for rows that name the chosen response. Give one "
            "column, or a section of columns with weights."
        )
    for name in (keys.score_key, f"{keys.score_key}s"):
        if has_value(holder, name):
            return number_at(holder, name)
    return -number_at(holder, keys.rank_key if has_value(holder, keys.rank_key) else f"{keys.rank_key}s")


def scored(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read one `response` a row with its scores, as HelpSteer has; rows that follow each other share the prompt."""
    return _scored(
        row, number, keys, [answered(row, value_at(row, keys.response_key), keys, chat)], [_score(row, keys)]
    )

"""A row and its format -> a prompt with its responses. A row that cannot be used raises RowError.

`chat` says whether the tokenizer renders messages. Where it does, texts with known turns become messages; where it does
not, they stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.attributes import attributes_of, with_attributes, with_attributes_of_two
from nemo_bt.data.formats.format import Format, Row, Verdict
from nemo_bt.data.formats.prompts import Prompt, answered, in_context, prompt_at
from nemo_bt.data.formats.responses import Chat, Preference, PromptGroup, Side, Text
from nemo_bt.data.formats.scores import given_scores, not_negative, preference_of, score_columns, score_of
from nemo_bt.data.formats.turns import as_conversation, as_messages, text_side, turns_in, whole_text
from nemo_bt.data.formats.values import has_value, list_at, number_at, value_at
from nemo_bt.data.read.drop_report import RowError


def parse(row: Row, number: int, form: Format, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read the responses of a row.

    Args:
        number: number of the row in its file.
        form: its format.
    """
    if form.only and row.get(form.only[0]) != form.only[1]:
        raise RowError("type", f"{form.only[0]} is {row.get(form.only[0])!r}, expected {form.only[1]}")
    if form.parse:
        return form.parse(row, number, keys, chat)
    if form.others and not has_value(row, keys.named(form.first)) and has_value(row, keys.named(form.others.first)):
        return parse(row, number, form.others, keys, chat)
    if form.second:
        return _compared(row, number, form, keys, chat)
    if form.conversation:
        side = in_context(whole(value_at(row, form.conversation), form.conversation, chat), prompt_at(row, form, keys))
        scores = [float(-(number % form.lines))] if form.lines > 1 else []
        return PromptGroup([side], [number], scores, margins=[0.0], weights=[1.0])
    sides = responses(row, form, keys, chat)
    if form.in_order:
        group = pairs_of(row, number, keys, sides[:1], sides[1:])
        return with_attributes(group, [attributes_of(holder, keys) for holder in _holders(row, form, keys, len(sides))])
    if not form.has_scores:
        return PromptGroup(sides, [number] * len(sides))
    if keys.preference_key:
        raise RowError("type", f"'{keys.preference_key}' is read for pairs that rows name, and these have scores")
    holders = _holders(row, form, keys, len(sides))
    margins = [not_negative(row, keys.margin_key)] * len(sides)
    return PromptGroup(
        sides,
        [number] * len(sides),
        scores=[score_of(holder, keys) for holder in holders],
        attributes=[attributes_of(holder, keys) for holder in holders],
        margins=margins,
        weights=[weight_of(row, keys)] * len(sides),
    )


def whole(value: Any, key: str, chat: bool) -> Side:
    """Read a whole conversation, in messages or as a text."""
    if turns_in(value) is None and isinstance(value, str):
        return text_side(value, chat, key)
    return Chat(as_conversation(as_messages(value, key), key))


def responses(row: Row, form: Format, keys: RowSettings, chat: bool) -> list[Side]:
    """Give whole conversations: the row's prompt with each of its responses."""
    prompt = prompt_at(row, form, keys)
    return [answered(prompt, answer, chat, keys) for answer in answers_at(row, form, keys)]


def answers_at(row: Row, form: Format, keys: RowSettings) -> list[Any]:
    """Give a row's responses without their prompt."""
    field = keys.named(form.response)
    if not form.answers:
        return [value_at(row, field)]
    found = list_at(row, keys.named(form.answers))
    return [value_at(one, field) if field and isinstance(one, dict) and has_value(one, field) else one for one in found]


def several(value: Any) -> list[Any]:
    """Take one response for a list of one: several are a list of texts, or of lists of messages."""
    is_list = isinstance(value, list) and value and all(isinstance(one, str | list) for one in value)
    return value if is_list else [value]


def _compared(row: Row, number: int, form: Format, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read two responses, or some good and some bad ones."""
    first, second = _sides(row, form, keys, chat)
    num_sides = len(first), len(second)
    scores = _scores_of_two(row, form, keys)
    if scores and scores[0] != scores[1] and form.strength:
        is_second = scores[1] > scores[0]
    else:
        is_second = form.verdict is not None and _first_is_better(row, form.verdict, keys) is False
    if is_second:
        first, second = second, first
        scores = scores and (scores[1], scores[0])
    if scores and scores[0] < scores[1]:
        raise RowError("type", f"the chosen one has the lower score, {scores[0]:g} < {scores[1]:g}")
    group = pairs_of(row, number, keys, first, second, scores, form.compares_whole)
    return with_attributes_of_two(group, row, keys, num_sides, is_second)


def _sides(row: Row, form: Format, keys: RowSettings, chat: bool) -> tuple[list[Side], list[Side]]:
    """Give the sides of the two columns, or of a whole conversation and the column of other ends to it."""
    first, second = (keys.named(name) for name in (form.first, form.second))
    prompt = prompt_at(row, form, keys)
    if form.conversation:
        messages = as_conversation(as_messages(value_at(row, form.conversation), form.conversation), form.conversation)
        prompt = Prompt(messages[:-1], prompt.system, prompt.tools)
        chosen: list[Side] = [answered(prompt, messages[-1], chat, keys)]
    else:
        chosen = [_side(prompt, answer, first, form, keys, chat) for answer in _answers(row, first, form)]
    return chosen, [_side(prompt, answer, second, form, keys, chat) for answer in _answers(row, second, form)]


def _answers(row: Row, key: str, form: Format) -> list[Any]:
    """Give the responses of a side: one or several, each of which may be a field of an object."""
    value = value_at(row, key)
    if not form.response or form.conversation:
        return several(value)
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise RowError("missing", f"'{key}' is empty")
    if not all(isinstance(entry, dict) for entry in entries):
        raise RowError("type", f"'{key}' has entries that are no objects with '{form.response}'")
    return [value_at(entry, form.response) for entry in entries]


def _side(prompt: Prompt, answer: Any, key: str, form: Format, keys: RowSettings, chat: bool) -> Side:
    if prompt.said is not None:
        return answered(prompt, answer, chat, keys)
    kinds = set(form.kinds.values())
    if kinds == {("text",)}:
        side: Side = Text("", whole_text(answer, key))
    elif kinds == {("messages",)}:
        side = Chat(as_conversation(as_messages(answer, key), key))
    else:
        side = whole(answer, key, chat)
    return in_context(side, prompt)


def pairs_of(
    row: Row,
    number: int,
    keys: RowSettings,
    chosen: Sequence[Side],
    rejected: Sequence[Side],
    scores: tuple[float, float] | None = None,
    compares_whole: bool = False,
) -> PromptGroup:
    """Make a pair of every chosen side with every rejected one; `scores` are those of chosen and rejected."""
    margin = not_negative(row, keys.margin_key)
    weight = weight_of(row, keys)
    preference = preference_of(row, keys)
    given = [
        Preference((i, len(chosen) + j), number, margin, weight, scores, preference)
        for i in range(len(chosen))
        for j in range(len(rejected))
    ]
    sides = [*chosen, *rejected]
    return PromptGroup(sides, [number] * len(sides), given=given, compares_whole=compares_whole)


def _scores_of_two(row: Row, form: Format, keys: RowSettings) -> tuple[float, float] | None:
    """Give the scores of first and second, where the row has any; a tie, which the rules leave out, has equal ones."""
    if form.strength:
        signed = number_at(row, form.strength)
        return max(-signed, 0.0), max(signed, 0.0)
    if form.verdict and _first_is_better(row, form.verdict, keys) is None:
        return 0.0, 0.0
    if form.scores and all(has_value(row, name) for name in form.scores):
        return number_at(row, form.scores[0]), number_at(row, form.scores[1])
    return None if form.verdict else given_scores(row, keys)


def _first_is_better(row: Row, verdict: Verdict, keys: RowSettings) -> bool | None:
    """Read which of two is better; None for a tie. A score_key that the row has is the column, with the same values."""
    is_named = isinstance(keys.score_key, str) and keys.score_key != RowSettings.score_key and keys.score_key in row
    column = str(keys.score_key) if is_named else verdict.column
    value = value_at(row, column)
    for values, meaning in ((verdict.first, True), (verdict.second, False), (verdict.ties, None)):
        if value in values or str(value) in map(str, values):
            return meaning
    expected = " or ".join(map(str, (*verdict.first, *verdict.second, *verdict.ties)))
    raise RowError("type", f"'{column}' is {value!r}, expected {expected}")


def _holders(row: Row, form: Format, keys: RowSettings, num_responses: int) -> list[Row]:
    """Give what has the scores of each response: the row itself, an entry of its list, or its part of lists beside."""
    if not form.answers:
        return [row]
    entries = list_at(row, keys.named(form.answers))
    if entries and all(isinstance(entry, dict) and "role" not in entry for entry in entries):
        return entries
    holders: list[Row] = [{} for _ in range(num_responses)]
    for name in (*score_columns(keys), *map(str, keys.attribute_keys.values())):
        values = row.get(name)
        if isinstance(values, list):
            if len(values) != num_responses:
                raise RowError("type", f"'{name}' has {len(values)} values for {num_responses} completions")
            for holder, value in zip(holders, values, strict=True):
                holder[name] = value
    return holders


def weight_of(row: Row, keys: RowSettings) -> float:
    """Give the factor on the loss of a row's pairs; 1 where it has none."""
    weight = not_negative(row, keys.weight_key)
    return 1.0 if weight is None else weight

"""The prompt of a row, and a response put behind it: one place for every format. What is wrong raises RowError."""

from __future__ import annotations

from typing import Any, NamedTuple

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.format import Format, Row
from nemo_bt.data.formats.responses import Chat, Messages, Side, Text
from nemo_bt.data.formats.turns import (
    as_conversation,
    as_json,
    as_messages,
    is_transcript,
    transcript,
    turns_in,
    without_nulls,
)
from nemo_bt.data.formats.values import as_text, has_value, value_at
from nemo_bt.data.read.drop_report import RowError


class Prompt(NamedTuple):
    """What stands before a response.

    Args:
        said: messages, or the text of a single one; None where nothing is said.
        system: text of a system message.
        tools: functions that the assistant may call.
    """

    said: Messages | str | None
    system: str | None
    tools: list[Any] | None


def prompt_at(row: Row, form: Format, keys: RowSettings) -> Prompt:
    """Read the prompt of a row, with its system message, earlier turns and tools."""
    name = keys.named(form.system)
    system = as_text(row[name], name) if name and row.get(name) else None
    tools = as_json(row.get(keys.tools_key), keys.tools_key) if keys.tools_key and row.get(keys.tools_key) else None
    tools = without_nulls(tools)
    columns = [keys.named(column) for column in form.prompt]
    if not columns:
        return Prompt(None, system, tools)
    found = [(column, value_at(row, column)) for column in columns if has_value(row, column)]
    turns = turns_in(found[0][1]) if found else None
    if turns is not None:
        return Prompt(as_messages(turns, found[0][0]), system, tools)
    texts = [text for column, value in found if (text := as_text(value, column))]
    if not texts and len(found) < len(columns):
        raise RowError("missing", f"no '{columns[0]}'")
    asked = "\n".join(texts)
    earlier = as_json(row.get(form.history), form.history) if form.history else None
    if earlier:
        turns = [(role, text) for turn in earlier for role, text in zip(("user", "assistant"), turn, strict=True)]
        messages = [{"role": role, "content": as_text(text, form.history)} for role, text in (*turns, ("user", asked))]
        return Prompt(messages, system, tools)
    return Prompt(asked, system, tools)


def answered(prompt: Prompt, answer: Any, chat: bool, keys: RowSettings) -> Side:
    """Put a response behind its prompt; one that is a whole conversation already stays as it is."""
    turns = turns_in(answer)
    if turns is None:
        answer = as_text(answer, "answer")
        said = [{"role": "assistant", "content": answer}]
    else:
        said = as_messages(turns, "answer")
        if said[0]["role"] != "assistant":
            return Chat(as_conversation(said, "answer"), prompt.tools)
        answer = said[0]["content"] if len(said) == 1 and not said[0].get("tool_calls") else None
    asked = prompt.said or []
    if isinstance(asked, str):
        if isinstance(answer, str):
            plain = _behind_text(prompt, asked, answer, chat, keys)
            if isinstance(plain, Text | Chat):
                return plain
            said = [{**said[0], "content": plain}]
        asked = [{"role": "user", "content": asked}]
    has_system = bool(asked) and asked[0]["role"] == "system"
    first: Messages = [{"role": "system", "content": prompt.system}] if prompt.system and not has_system else []
    return Chat(as_conversation([*first, *asked, *said], "answer"), prompt.tools)


def _behind_text(prompt: Prompt, asked: str, answer: str, chat: bool, keys: RowSettings) -> Side | str:
    """Put a text behind a text, where they stay texts or are a transcript; else give the answer alone."""
    if is_transcript(asked):
        return transcript(answer if answer.startswith(asked) else asked + answer, "prompt", chat)
    if keys.answers_hold_prompt:
        if not answer.startswith(asked):
            raise RowError("prompts", f"the answer begins with {answer[:40]!r}, not with its prompt")
        answer = answer[len(asked) :].lstrip()
    if keys.input_template:
        return Text(keys.input_template.replace("{}", asked), answer)
    if not chat:
        return Text(f"{prompt.system}\n\n{asked}" if prompt.system else asked, answer)
    return answer

"""The prompt of a row, and a response put behind it: one place for every format. What is wrong raises RowError."""

from __future__ import annotations

import re
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

_RENDERED = re.compile(r"\s*(<(s|bos|[a-z]+_of_[a-z]+|\W[^<>]*\W)>|\[INST\]|\[SYSTEM_PROMPT\])")
"""How a text begins that a chat template has rendered: with a special token."""


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
        return Prompt([*_earlier(earlier, form.history), {"role": "user", "content": asked}], system, tools)
    return Prompt(asked, system, tools)


def _earlier(turns: Any, key: str) -> Messages:
    """Read earlier turns: messages, or [[instruction, answer], ...]."""
    if turns_in(turns) is not None:
        return as_messages(turns, key)
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise RowError("type", f"'{key}' is no list of [instruction, answer] and no messages")
    both = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    return [{"role": role, "content": as_text(text, key)} for role, text in both]


def answered(prompt: Prompt, answer: Any, chat: bool, keys: RowSettings) -> Side:
    """Put a response behind its prompt; one that is a whole conversation with its prompt stays as it is."""
    turns = turns_in(answer)
    if turns is None:
        answer = as_text(answer, "answer")
        said = [{"role": "assistant", "content": answer}]
    else:
        said = as_messages(turns, "answer")
        if said[0]["role"] != "assistant":
            whole = said if _holds(said, prompt.said) else [*(prompt.said or []), *said]
            return in_context(Chat(as_conversation(whole, "answer")), prompt)
        answer = said[0]["content"] if len(said) == 1 and not said[0].get("tool_calls") else None
    asked = prompt.said
    if isinstance(asked, str):
        if isinstance(answer, str):
            plain = _behind_text(prompt, asked, answer, chat, keys)
            if isinstance(plain, Text | Chat):
                return plain
            said = [{**said[0], "content": plain}]
        asked = [{"role": "user", "content": asked}] if asked else None
    return in_context(Chat(as_conversation([*(asked or []), *said], "answer")), prompt)


def _holds(said: Messages, prompt: Messages | str | None) -> bool:
    """Tell whether a conversation has its prompt already; one of messages that it has no part of stands before it."""
    if not prompt:
        return True
    if isinstance(prompt, str):
        before = "".join(message["content"] or "" for message in said[:-1])
        if "".join(prompt.split()) not in "".join(before.split()):
            raise RowError(
                "prompts",
                f"the answer is a conversation without its prompt {prompt[:40]!r}; model.data.format=messages with "
                "ignore_columns reads it alone",
            )
        return True
    there = {(message["role"], (message["content"] or "").strip()) for message in said}
    held = [(message["role"], (message["content"] or "").strip()) in there for message in prompt]
    if any(held) and not all(held):
        raise RowError("prompts", "the answer is a conversation with a part of its prompt")
    return all(held)


def in_context(side: Side, prompt: Prompt) -> Side:
    """Put the row's system message in front of a conversation, and give it the row's tools."""
    system = prompt.system
    if isinstance(side, Text):
        if system and _RENDERED.match(side.prompt + side.response):
            raise RowError("roles", "a system message in its column, beside a text that is rendered already")
        return Text(f"{system}\n\n{side.prompt}", side.response) if system else side
    messages = side.messages
    if system and messages and messages[0]["role"] == "system":
        if (messages[0]["content"] or "").strip() != system.strip():
            raise RowError("roles", "a system message in its column, and another in the conversation")
        system = None
    first: Messages = [{"role": "system", "content": system}] if system else []
    return Chat([*first, *messages], side.tools or prompt.tools)


def _behind_text(prompt: Prompt, asked: str, answer: str, chat: bool, keys: RowSettings) -> Side | str:
    """Put a text behind a text, where they stay texts or are a transcript; else give the answer alone."""
    if is_transcript(asked):
        return in_context(transcript(answer if answer.startswith(asked) else asked + answer, "prompt", chat), prompt)
    if keys.answers_hold_prompt:
        if not answer.startswith(asked):
            raise RowError("prompts", f"the answer begins with {answer[:40]!r}, not with its prompt")
        answer = answer[len(asked) :]
        if not chat and not keys.input_template:
            return in_context(Text(asked, answer), prompt)  # with what stood between them
        answer = answer.lstrip()
    if keys.input_template:
        return in_context(Text(keys.input_template.replace("{}", asked), answer), prompt)
    return answer if chat else in_context(Text(asked + _between(asked, answer, keys), answer), prompt)


def _between(asked: str, answer: str, keys: RowSettings) -> str:
    """Give what is put between a prompt and an answer that stay texts."""
    if not asked or not answer:
        return ""
    if keys.join is not None:
        return keys.join
    if asked[-1].isspace() or answer[0].isspace():
        return ""
    raise RowError("join", f"{asked[-20:]!r} and {answer[:20]!r}")

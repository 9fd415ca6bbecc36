"""What a cell holds -> a conversation: messages, ShareGPT turns, parts of text, transcripts, and JSON texts of these.

What cannot be used raises RowError.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from nemo_bt.data.formats.responses import Chat, Messages, Side, Text
from nemo_bt.data.formats.values import as_text
from nemo_bt.data.read.drop_report import RowError

_SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "observation": "tool", "tool": "tool", "function_call": "assistant",
}  # fmt: skip
"""The field `from` -> role. A function_call's value is the JSON text of the call."""
_KEPT = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")
"""Fields beside role and content that chat templates read."""
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_HH_TURN = re.compile(r"(?:\A\s*|\r?\n\r?\n)(Human|Assistant):")
_TURNS_TEXT = re.compile(r"""\s*\[?\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")
"""How a text begins that is meant as turns."""
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def turns_in(value: Any) -> list[Any] | None:
    """Find the turns in a value: a list of them, one, or a struct of lists; JSON texts of these, and Python's too."""
    if isinstance(value, str):
        value = _decoded(value)
    if isinstance(value, dict) and isinstance(value.get("role"), list):  # datasets' Sequence of a struct
        lengths = {len(column) for column in value.values() if isinstance(column, list)}
        if len(lengths) != 1:
            return None
        columns = {name: column for name, column in value.items() if isinstance(column, list)}
        value = [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]
    turns = value if isinstance(value, list) else [value]
    return turns if turns and all(isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in turns) else None


def _decoded(text: str) -> Any:
    """Read a text that is JSON or Python of turns with known roles; any other stays as it is."""
    if text.lstrip()[:1] not in ("[", "{") or not ("role" in text or "from" in text):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.replace("}\n {", "},\n {"))  # numpy writes no commas; in a text, a line end is escaped
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        turns = found if isinstance(found, list) else [found]
        roles = [turn.get("role", turn.get("from")) if isinstance(turn, dict) else None for turn in turns]
        if len(roles) == 1 and isinstance(roles[0], list):
            roles = roles[0]
        return found if roles and all(isinstance(role, str) and role in _SHAREGPT for role in roles) else text
    return text


def as_messages(value: Any, key: str) -> Messages:
    """Read messages of role and content, with the calls and names that templates read; other fields are left out."""
    turns = turns_in(value)
    if turns is None and isinstance(value, list | dict):
        turns = value if isinstance(value, list) else [value]
    if turns is None:
        raise RowError("type", f"'{key}' has {type(value).__name__}, expected messages of role and content")
    return [_message(turn, key) for turn in turns]


def _message(turn: Any, key: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowError("type", f"'{key}' has {type(turn).__name__}, expected messages of role and content")
    role = turn.get("role")
    content = turn.get("content")
    media = next((name for name in _MEDIA if turn.get(name)), None)
    if media:
        raise RowError("parts", f"'{key}' has a message with {media}")
    kept = {name: without_nulls(turn[name]) for name in _KEPT if turn.get(name) not in (None, [])}
    if role is None and "from" in turn:
        role = _SHAREGPT.get(str(turn["from"]))
        content = turn.get("value")
        if role is None:
            raise RowError("roles", f"'{key}' has a turn from {turn['from']!r}, expected {', '.join(_SHAREGPT)}")
        if turn["from"] == "function_call":
            kept["tool_calls"] = [{"type": "function", "function": as_json(content, f"{key}.value")}]
            content = None
    if role is None or role == "":
        raise RowError("roles", f"'{key}' has a message without role")
    if isinstance(kept.get("tool_calls"), str):
        kept["tool_calls"] = as_json(kept["tool_calls"], f"{key}.tool_calls")
    if isinstance(turn.get("function_call"), dict) and "tool_calls" not in kept:
        kept["tool_calls"] = [{"type": "function", "function": without_nulls(turn["function_call"])}]
    calls = kept.get("tool_calls", [])
    if not isinstance(calls, list) or not all(
        isinstance(c, dict) and isinstance(c.get("function", c), dict) for c in calls
    ):
        raise RowError("type", f"'{key}.tool_calls' is no list of calls with a function each")
    if content is None and not kept.get("tool_calls"):
        raise RowError("missing", f"'{key}' has a message without content")
    text = None if content is None else _content(content, f"{key}.content")
    return {"role": as_text(role, f"{key}.role"), "content": text} | kept


def _content(content: Any, key: str) -> str:
    """Read a text, or join a list of parts of text as vLLM does, by newlines."""
    if not isinstance(content, list):
        return as_text(content, key)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else "text"
        if kind != "text":
            raise RowError("parts", f"'{key}' has a part of type {kind}")
        texts.append(as_text(part.get("text") if isinstance(part, dict) else part, key))
    return "\n".join(texts)


def as_json(value: Any, key: str) -> Any:
    """Read a JSON text; what is no text is read already."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError("type", f"'{key}' is a text, expected JSON ({str(error)[:80]})") from error


def without_nulls(value: Any) -> Any:
    """Leave out the fields that are null: a column of structs has every field of every row."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def as_conversation(messages: Messages, key: str) -> Messages:
    """Check that messages can be judged: the last is the assistant's, a system message is the first.

    Whether users and assistants have to take turns is left to the chat template.
    """
    roles = [message["role"] for message in messages]
    if not roles or roles[-1] != "assistant":
        raise RowError("roles", f"'{key}' ends with {roles[-1] if roles else 'nothing'}, expected an assistant message")
    if "system" in roles[1:]:
        raise RowError("roles", f"'{key}' has a system message after the first")
    if len(roles) > 1 and roles[0] == "assistant" and roles[1] == "assistant":
        raise RowError("roles", f"'{key}' begins with two assistant messages")
    return messages


def is_transcript(value: Any) -> bool:
    """Tell whether a value looks like a transcript of hh-rlhf."""
    if not isinstance(value, str) or "Assistant:" not in value:
        return False
    turns = [turn[1] for turn in _HH_TURN.finditer(value)]
    return turns[:1] == ["Human"] and "Assistant" in turns


def transcript(whole: str, key: str, chat: bool) -> Side:
    """Turn a transcript of hh-rlhf into messages, or into a text where there is no template for them."""
    turns = list(_HH_TURN.finditer(whole))
    if not turns or turns[-1][1] != "Assistant" or whole[: turns[0].start()].strip():
        raise RowError("roles", f"'{key}' is no transcript that ends with an Assistant turn")
    if not chat:
        return Text(whole[: turns[-1].end()], whole[turns[-1].end() :])
    ends = [turn.start() for turn in turns[1:]] + [len(whole)]
    contents = [whole[turn.end() : end].strip() for turn, end in zip(turns, ends, strict=True)]
    return Chat([{"role": _HH_ROLES[turn[1]], "content": c} for turn, c in zip(turns, contents, strict=True)])


def whole_text(text: Any, key: str) -> str:
    """Read a text that stands for a whole conversation."""
    whole = as_text(text, key)
    if _TURNS_TEXT.match(whole):
        raise RowError("type", f"'{key}' begins as messages do, and is neither JSON nor Python of them")
    return whole


def text_side(text: Any, chat: bool, key: str = "text") -> Side:
    """Read a whole text; a transcript in hh-rlhf's form becomes messages where messages are rendered."""
    whole = whole_text(text, key)
    return transcript(whole, key, chat) if is_transcript(whole) else Text("", whole)

"""Columns with a part of the conversation that a format does not read. Nothing is left out in silence."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nemo_bt.data.formats.responses import PromptGroup, Text
from nemo_bt.data.formats.turns import as_messages, turns_in
from nemo_bt.data.read.chunk import Row
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError

_PROMPT_WORDS = {
    *("article", "background", "context", "conversation", "dialog", "dialogue", "document", "goal", "history", "input"),
    *("instruction", "message", "passage", "persona", "post", "premise", "problem", "prompt", "query", "question"),
    *("request", "scenario", "situation", "system", "task", "turn", "user"),
}
"""Words, also with an s behind them, in the names of columns that hold a part of a conversation ..."""
_FACT_WORDS = {
    *("category", "class", "count", "date", "hash", "id", "idx", "index", "key", "lang", "language", "len", "length"),
    *("model", "name", "num", "number", "score", "source", "subset", "time", "token", "type", "uuid"),
}
"""... unless one of these is the last."""
_MEDIA_WORDS = {"audio", "image", "picture", "video"}
"""Words in the names of columns of what is no text and belongs to the conversation."""
_LOOKED_AT = 32
"""Rows whose conversations are searched for what stands in the columns left over."""


def left_over(
    rows: Sequence[Row], unread: Iterable[str], parse: Callable[[Row], PromptGroup], asks: bool = True
) -> list[str]:
    """Name the columns with a part of the conversation that nothing reads.

    Their names say so, and what stands in them is not found in the conversations as they are read. Where the format
    has no prompt of any kind, any column of sentences that differ from row to row is one.

    Args:
        unread: columns that the format does not read.
        parse: reads a row; raises RowError.
        asks: whether the conversations of the format have a prompt.
    """
    unread = [name for name in unread if any(_filled(row, name) for row in rows)]
    suspect = [name for name in unread if _is_prompt_like(name) or (not asks and _has_sentences(rows, name))]
    found = {name: None for name in unread if _is_media(name)}
    for row in [row for row in rows if any(_filled(row, name) for name in suspect)][:_LOOKED_AT]:
        try:
            conversation = _conversation(parse(row))
        except RowError:
            continue
        for name in suspect:
            texts = _texts(row.get(name)) if isinstance(row, dict) else []
            if not all(_plain(text) in conversation for text in texts):
                found[name] = None
    return list(found)


def is_suspect(name: str) -> bool:
    """Tell whether a column's name says that it holds a part of the conversation."""
    return _is_prompt_like(name) or _is_media(name)


def _is_prompt_like(name: str) -> bool:
    return name.lower() == "text" or _is_called(name, _PROMPT_WORDS)


def _is_media(name: str) -> bool:
    return _is_called(name, _MEDIA_WORDS)


def _is_called(name: str, words: set[str]) -> bool:
    """Tell whether one of the words is in a name whose last word says no fact about it, as in prompt_id."""
    found = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    found = [word if word in words else word.removesuffix("s") for word in found]
    return bool(words & set(found)) and found[-1] not in _FACT_WORDS


def _filled(row: Row, name: str) -> bool:
    return isinstance(row, dict) and bool(row.get(name))


def _has_sentences(rows: Sequence[Row], name: str) -> bool:
    """Tell whether a column has texts of several words, of which hardly any stands there twice."""
    texts = [row[name] for row in rows if isinstance(row, dict) and isinstance(row.get(name), str)]
    sentences = [text for text in texts if len(text.split()) > 1]
    return 2 * len(sentences) > len(rows) and 4 * len(set(sentences)) > 3 * len(sentences)


def _texts(value: Any) -> list[str]:
    """Give the texts in a value: itself, or the contents of its messages."""
    turns = turns_in(value)
    if turns is not None:
        try:
            return [message["content"] for message in as_messages(turns, "") if (message["content"] or "").strip()]
        except RowError:
            return []
    if isinstance(value, list | dict):
        return [text for one in (value.values() if isinstance(value, dict) else value) for text in _texts(one)]
    return [value] if isinstance(value, str) and value.strip() else []


def _conversation(group: PromptGroup) -> str:
    """Give all that is said in a row, without white space."""
    said: list[str] = []
    for side in group.sides:
        if isinstance(side, Text):
            said.append(side.prompt + side.response)
        else:
            said += [message["content"] or "" for message in side.messages]
    return "\n".join(map(_plain, said))


def _plain(text: str) -> str:
    return "".join(text.split())


def _typed(columns: Sequence[str]) -> str:
    """Write the override that leaves columns out, in quotes where a shell needs them."""
    override = f"model.data.ignore_columns=[{','.join(columns)}]"
    return override if all(re.fullmatch(r"[\w.-]+", name) for name in columns) else shlex.quote(override)


def refusal(name: str, form: str, left: Sequence[str], reads_prompt: bool) -> UserError:
    """Name the columns, and the keys that would read them or leave them out.

    Args:
        reads_prompt: whether the format has a column of the prompt already.
    """
    texts = [column for column in left if not _is_media(column)]
    system = next((column for column in texts if "system" in column.lower()), None)
    asked = next((column for column in texts if column != system), None)
    sets = []
    if asked and not reads_prompt:
        sets.append(shlex.quote(f"model.data.prompt_key={asked}"))
    if system:
        sets.append(shlex.quote(f"model.data.system_key={system}"))
    use = f"Set {' '.join(sets)} to use them, or" if sets else "Set model.data.prompt_key or system_key to use it, or"
    use = use if texts else "Only text can be judged. Set"
    return UserError(
        f"{name}: the rows fit format {form}, which reads nothing of {', '.join(left)}: a part of the conversation "
        f"would be left out. {use} {_typed(left)} to train without them."
    )

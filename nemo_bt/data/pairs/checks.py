"""What ruins a reward model, looked for in every pair: each finding is a reason of nemo_bt/data/read/drop_report.py."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, TypeAlias

import numpy as np

from nemo_bt.batching.stream import Ids
from nemo_bt.data.formats.responses import Chat, Preference, PromptGroup, Side, Text, prompt_of, response_of
from nemo_bt.data.tokenize.chat_template import Renderer

Finding: TypeAlias = tuple[str, str]
"""Reason, and what was found."""


def wrong_text(group: PromptGroup, pair: Preference) -> Finding | None:
    """Find what is wrong with a pair or list as read: an empty response, prompts that differ, a response twice."""
    sides = [group.sides[side] for side in pair.sides]
    for number, side in enumerate(sides):
        if not response_of(side).strip():
            return "empty", side_name(number, len(sides))
    prompts = [_asked(prompt_of(side), group.compares_whole) for side in sides]
    other = next((prompt for prompt in prompts if prompt != prompts[0]), None)
    if other is not None:
        return "prompts", " and ".join(_end_of(prompt) for prompt in (prompts[0], other))
    said = [(response_of(side), prompt_of(side)) for side in sides]
    is_twice = any(one == another for one, another in itertools.combinations(said, 2))
    return ("identical", "") if is_twice else None


def side_name(number: int, num_sides: int) -> str:
    """Name a side of a pair, chosen or rejected, or of a list: `response 3 of 4`."""
    return ("chosen", "rejected")[number] if num_sides == 2 else f"response {number + 1} of {num_sides}"


def _asked(prompt: str | Chat, compares_whole: bool) -> str | Chat:
    """Give what both sides of a pair have to have in common."""
    if isinstance(prompt, str) or not compares_whole:
        return prompt
    return Chat([turn for turn in prompt.messages if turn["role"] != "assistant"], prompt.tools)


def _end_of(prompt: str | Chat) -> str:
    text = prompt if isinstance(prompt, str) else prompt.messages[-1]["content"] or "" if prompt.messages else ""
    return repr(text[-60:])


def stray_bos(renderer: Renderer, side: Side) -> bool:
    """Tell whether somebody says the BOS token: the model would take it for a start."""
    bos = renderer.tokenizer.bos_token
    if not bos:
        return False
    if isinstance(side, Chat):
        return any(bos in (message.get("content") or "") for message in side.messages)
    text = side.prompt + side.response
    is_own = bos == renderer.tokenizer.eos_token or renderer.is_rendered(text)
    return not is_own and bos in text.removeprefix(bos)


def lost_part(side: Side, text: str) -> str | None:
    """Name a part of a conversation that the chat template has left out; None where all is in the rendered text.

    Templates may trim, and may leave out the reasoning of answers before the last.
    """
    if isinstance(side, Text):
        return None
    last = len(side.messages) - 1
    plain = "".join(text.split())
    parts = [("tools", name) for name in _names(side.tools)]
    for place, message in enumerate(side.messages):
        is_earlier = message["role"] == "assistant" and place < last
        said = [] if is_earlier else _parts(message)
        parts += [(message["role"], part) for part in (*said, *_names(message.get("tool_calls")))]
    for where, part in parts:
        if part in text or "".join(part.split()) in plain:
            continue
        if not any(json.dumps(part, ensure_ascii=is_ascii)[1:-1] in text for is_ascii in (True, False)):
            return f"{where}: {part[:80]!r}"
    return None


def _parts(message: dict[str, Any]) -> list[str]:
    """List the texts of a message that a template has to render; a reasoning in the content is one of its own."""
    found = [part.strip() for part in re.split("</?think>", message.get("content") or "")]
    found += [str(message.get(name) or "").strip() for name in ("reasoning_content", "reasoning", "thinking")]
    return [part for part in found if part]


def _names(functions: Any) -> list[str]:
    """Name functions: those of calls, or those that may be called."""
    inner = [one.get("function", one) for one in functions or [] if isinstance(one, dict)]
    return [str(one["name"]) for one in inner if isinstance(one, dict) and one.get("name")]


def wrong_tokens(renderer: Renderer, ids: list[Ids], is_ended: list[bool], start: str = "") -> Finding | None:
    """Find what is wrong with the ids of a pair or list: BOS missing or doubled, ends that differ, a pad scored.

    Args:
        renderer: has made them.
        ids: those of each side; the same ids twice are wrong too.
        is_ended: whether each ends in a special token, white space aside. Where a template writes no end, responses
            end as they do.
        start: what they begin with, for the message.
    """
    if any(len(side) == 0 or renderer.wrong_bos(side) for side in ids):
        return "bos", f"{start[:60]!r}"
    ends = list(dict.fromkeys(int(side[-1]) for side in ids))
    if len(ends) > 1 and any(is_ended):
        return "terminal", " and ".join(map(str, ends[:2]))
    if renderer.pad_id in ends:
        return "pad", f"id {renderer.pad_id}"
    if any(np.array_equal(one, another) for one, another in itertools.combinations(ids, 2)):
        return "identical", "the same token ids"
    return None

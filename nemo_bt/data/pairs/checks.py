"""What ruins a reward model, looked for in every pair: each finding is a reason of nemo_bt/data/read/drop_report.py."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from nemo_bt.batching.stream import Ids
from nemo_bt.data.formats.responses import Preference, PromptGroup, prompt_of, response_of
from nemo_bt.data.tokenize.chat_template import Renderer

Finding: TypeAlias = tuple[str, str]
"""Reason, and what was found."""


def wrong_text(group: PromptGroup, pair: Preference) -> Finding | None:
    """Find what is wrong with a pair as read: an empty response, prompts that differ, the same response twice."""
    sides = [group.sides[side] for side in pair.sides]
    for side, name in zip(sides, ("chosen", "rejected"), strict=True):
        if not response_of(side).strip():
            return "empty", name
    prompts = [prompt_of(side) for side in sides]
    if prompts[0] != prompts[1]:
        return "prompts", " and ".join(_end_of(prompt) for prompt in prompts)
    if response_of(sides[0]) == response_of(sides[1]):
        return "identical", ""
    return None


def _end_of(prompt: Any) -> str:
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt else ""
    return repr(text[-60:])


def wrong_tokens(renderer: Renderer, texts: list[str], ids: list[Ids]) -> Finding | None:
    """Find what is wrong with a pair's token ids: BOS missing or doubled, ends that differ, the scored token a pad.

    Args:
        renderer: has made them.
        texts: chosen and rejected, rendered.
        ids: chosen and rejected; the same ids twice are wrong too.
    """
    chosen, rejected = ids
    for text, side in zip(texts, ids, strict=True):
        if len(side) == 0 or not renderer.one_bos(side, text):
            return "bos", f"{text[:60]!r}"
    if chosen[-1] != rejected[-1]:
        return "terminal", f"{chosen[-1]} and {rejected[-1]}"
    if chosen[-1] == renderer.pad_id:
        return "pad", f"id {chosen[-1]}"
    if np.array_equal(chosen, rejected):
        return "identical", "the same token ids"
    return None

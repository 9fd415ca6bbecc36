"""How rewards move under changes that should not matter: which conversations change, and what that does to a set.

Shape suffixes: E = entries of the set's epoch; 2 = chosen, rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nemo_bt.batching.packing import Floats
from nemo_bt.data.formats.responses import Side, Text
from nemo_bt.evaluation.accuracy import tally
from nemo_bt.reporting.transforms import OF_PROMPT, OF_RESPONSE

MOST_PAIRS = 512
"""Pairs of a set, the first that a change touches, whose rewards are computed again."""
_WORST = 3


def changed_sides(sides: Sequence[Side], without: Container[str] = ()) -> dict[str, list[Side]]:
    """Give the conversations of a pair after each change that touches one of them, by the change's name."""
    found: dict[str, list[Side]] = {}
    for changes, put in ((OF_RESPONSE, _with_response), (OF_PROMPT, _with_prompt)):
        for name, change in changes.items():
            if name not in without:
                found[name] = [put(side, change) for side in sides]
    return {name: changed for name, changed in found.items() if changed != list(sides)}


def _with_response(side: Side, change: Callable[[str], str]) -> Side:
    if isinstance(side, Text):
        return Text(side.prompt, change(side.response)) if side.prompt else side
    return replace(side, messages=[*side.messages[:-1], _with_content(side.messages[-1], change)])


def _with_prompt(side: Side, change: Callable[[str], str]) -> Side:
    """Change the turn before the response, where that is the user's; plain texts have turns that nobody knows."""
    if isinstance(side, Text) or len(side.messages) < 2 or side.messages[-2].get("role") != "user":
        return side
    return replace(side, messages=[*side.messages[:-2], _with_content(side.messages[-2], change), side.messages[-1]])


def _with_content(message: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    content = message.get("content")
    return message | {"content": change(content)} if isinstance(content, str) and content else message


def robustness(given_E2: Floats, changed_E2: Mapping[str, Floats], where: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Compare the rewards of pairs before and after each change.

    Args:
        given_E2: rewards of the pairs as they are.
        changed_E2: rewards after each change, by its name; NaN for pairs that it does not touch.
        where: file and row of each entry.

    Returns:
        For each change that touches a pair: `pairs`, `accuracy` before and `accuracy_after`, the share of pairs whose
        order `turned`, the mean size of what a reward `moved` by, and the `worst`: the pairs whose margin fell most.
    """
    found = {}
    for name, after_E2 in changed_E2.items():
        kept = np.flatnonzero(np.isfinite(given_E2).all(axis=1) & np.isfinite(after_E2).all(axis=1))
        if not len(kept):
            continue
        before, after = given_E2[kept], after_E2[kept]
        margin, margin_after = before[:, 0] - before[:, 1], after[:, 0] - after[:, 1]
        order = np.argsort(margin_after - margin, kind="stable")[:_WORST].tolist()
        found[name] = {
            "pairs": len(kept),
            "accuracy": tally(before.tolist()).accuracy,
            "accuracy_after": tally(after.tolist()).accuracy,
            "turned": float((np.sign(margin) != np.sign(margin_after)).mean()),
            "moved": float(np.abs(after - before).mean()),
            "worst": [
                {"where": where[kept[i]], "margin": float(margin[i]), "margin_after": float(margin_after[i])}
                for i in order
                if margin_after[i] < margin[i]
            ],
        }
    return found

"""Facts, numbers and pictures -> one HTML file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bt.reporting.conversations import Sides, as_texts
from nemo_bt.reporting.facts import Facts
from nemo_bt.reporting.numbers import JudgedSet, worst_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = "page.html.jinja"
_MOST_CHARACTERS = 20_000
_START_CHARACTERS = 90


def worst_pairs(judged: JudgedSet, conversations: Sequence[Sides]) -> list[dict[str, Any]]:
    """Give the worst pairs for people to read: the turns that both sides begin with, and each side's own."""
    found = []
    for entry in worst_of(judged):
        rewards = judged.rewards.given_E2[entry].tolist()
        texts = [[{"who": who, "said": _cut(said)} for who, said in as_texts(side)] for side in conversations[entry]]
        shared = list(takewhile(lambda both: both[0] == both[1], zip(*(turns[:-1] for turns in texts), strict=False)))
        asked = texts[0][max(0, len(texts[0]) - 2)]  # the turn before the response, not a system message that all have
        start = " ".join(asked["said"].split())
        found.append(
            {
                "margin": rewards[0] - rewards[1],
                "where": judged.where[entry],
                "start": start if len(start) <= _START_CHARACTERS else f"{start[:_START_CHARACTERS]}…",
                "shared": [turn for turn, _ in shared],
                "sides": [
                    {"label": label, "reward": reward, "turns": turns[len(shared) :]}
                    for label, reward, turns in zip(("chosen", "rejected"), rewards, texts, strict=True)
                ],
            }
        )
    return found


def _cut(said: str) -> str:
    more = len(said) - _MOST_CHARACTERS
    return said if more <= 0 else f"{said[:_MOST_CHARACTERS]}… ({more:,} more characters)"


def render(
    title: str,
    subtitle: str,
    curves: Mapping[str, Figure],
    sets: Sequence[dict[str, Any]],
    evaluated: Sequence[dict[str, Any]],
    facts: Facts,
) -> str:
    """Render the page.

    Args:
        sets: validation sets, each with `name`, `numbers`, `pictures` by name, and `worst` pairs.
        evaluated: results of evaluations, each with `name`, `pictures`, and what `shown` gives.
    """
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (Path(__file__).parent / _TEMPLATE).read_text()
    )
    return template.render(
        title=title,
        subtitle=subtitle,
        curves=_embedded(curves),
        sets=[one | {"pictures": _embedded(one["pictures"])} for one in sets],
        evaluated=[one | {"pictures": _embedded(one["pictures"])} for one in evaluated],
        facts=facts,
    )


def _embedded(figures: Mapping[str, Figure]) -> list[dict[str, str]]:
    found = []
    for figure in figures.values():
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        axes = figure.axes[0]
        alt = f"{axes.get_title()}: {axes.get_ylabel()} over {axes.get_xlabel()}"
        found.append({"data": f"data:image/svg+xml;base64,{base64.b64encode(drawn.getvalue()).decode()}", "alt": alt})
    return found

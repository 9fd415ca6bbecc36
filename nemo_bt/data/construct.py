"""Scored responses to one prompt -> pairs, by the rules of model.data.pairs. What a rule leaves out is counted."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TypeAlias

import numpy as np

from nemo_bt.data.choices import Choices, response_of
from nemo_bt.data.settings import PairRules

Pairs: TypeAlias = list[tuple[int, int]]
"""(chosen, rejected), as positions in Choices.sides."""


def make_pairs(choices: Choices, rules: PairRules) -> tuple[Pairs, Counter[str]]:
    """Pairs of one prompt.

    Candidates are the pairs that the rows name; else, with the best response b and K in all:
    best_vs_worst gives (b, worst), best_vs_random (b, one of the K - 1 others), all_pairs every two of the K.
    A candidate is left out when its responses are the same, its scores are equal, their difference is below
    `min_margin` or their ratio below `min_ratio`; of the rest at most `max_pairs_per_prompt` stay, drawn at random.

    Args:
        choices: K responses with scores, or with pairs that are given.
        rules: of the source.

    Returns:
        The pairs, best first, and how many candidates each rule left out. A single response counts as one candidate.
        Four scores 4, 3, 3, 1 under all_pairs give 5 pairs and one tie.
    """
    candidates = choices.given if choices.given is not None else _candidates(choices, rules)
    dropped: Counter[str] = Counter()
    if not candidates:
        return [], Counter(single=1)
    pairs = []
    for chosen, rejected in candidates:
        reason = _left_out(choices, chosen, rejected, rules)
        if reason:
            dropped[reason] += 1
        else:
            pairs.append((chosen, rejected))
    limit = rules.max_pairs_per_prompt
    if limit is not None and len(pairs) > limit:
        dropped["cap"] = len(pairs) - limit
        drawn = _random(choices, rules).choice(len(pairs), limit, replace=False)
        pairs = [pairs[i] for i in sorted(drawn)]
    return pairs, dropped


def _random(choices: Choices, rules: PairRules) -> np.random.Generator:
    """The same for the same prompt, whichever process asks."""
    return np.random.default_rng((rules.seed, choices.rows[0]))


def _candidates(choices: Choices, rules: PairRules) -> Pairs:
    scores = choices.scores or []
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    if len(order) < 2:
        return []
    if rules.mode == "all_pairs":
        return list(itertools.combinations(order, 2))
    place = len(order) - 1
    if rules.mode == "best_vs_random":
        place = 1 + int(_random(choices, rules).integers(len(order) - 1))
    return [(order[0], order[place])]


def _left_out(choices: Choices, chosen: int, rejected: int, rules: PairRules) -> str:
    """The rule that leaves a candidate out, "" if none does."""
    if choices.given is None and response_of(choices.sides[chosen]) == response_of(choices.sides[rejected]):
        return "same"
    if choices.scores is None:
        return ""
    high, low = choices.scores[chosen], choices.scores[rejected]
    if high == low:
        return "tie"
    if high - low < rules.min_margin:
        return "margin"
    if rules.min_ratio and high < rules.min_ratio * low:
        return "ratio"
    return ""


def margin_of(choices: Choices, chosen: int, rejected: int) -> float:
    """Strength of a preference: what the row says, else the difference of scores, else 0."""
    given = choices.margins[chosen]
    if given is not None:
        return given
    return choices.scores[chosen] - choices.scores[rejected] if choices.scores is not None else 0.0

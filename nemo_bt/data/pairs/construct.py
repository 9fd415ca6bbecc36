"""Scored responses to one prompt -> pairs, by the rules of model.data.pairs, or a list. What is left out is counted."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np

from nemo_bt.config.data import PairRules
from nemo_bt.data.formats.responses import Preference, PromptGroup, response_of


def make_pairs(group: PromptGroup, rules: PairRules) -> tuple[list[Preference], Counter[str]]:
    """Make the pairs of one prompt.

    Candidates are the pairs that the rows name; else, with the best response b and K in all:
    best_vs_worst gives (b, worst), best_vs_random (b, one of the K - 1 others), all_pairs every two of the K.
    A candidate is left out when its responses are the same, its scores are equal (unless ties are kept), their
    difference (or the row's own margin, where there are no scores) is below `min_margin` or their ratio below
    `min_ratio`; of the rest at most `max_pairs_per_prompt` stay, drawn at random.

    Args:
        group: has K responses with scores, or with pairs that are given.

    Returns:
        The pairs, best first, and how many candidates each rule left out. A single response counts as one candidate.
        Four scores 4, 3, 3, 1 under all_pairs give 5 pairs and one tie.
    """
    candidates = group.given if group.given is not None else _candidates(group, rules)
    dropped: Counter[str] = Counter()
    if not candidates:
        return [], Counter(single=1)
    pairs = []
    for pair in candidates:
        reason = _left_out(group, pair, rules)
        if reason == "tie" and rules.keep_ties:
            pairs.append(pair._replace(preference=0.5))
        elif reason:
            dropped[reason] += 1
        else:
            pairs.append(pair)
    limit = rules.max_pairs_per_prompt
    if limit is not None and len(pairs) > limit:
        dropped["cap"] = len(pairs) - limit
        drawn = _random(group, rules).choice(len(pairs), limit, replace=False)
        pairs = [pairs[i] for i in sorted(drawn)]
    return pairs, dropped


def _random(group: PromptGroup, rules: PairRules) -> np.random.Generator:
    """Make a generator that is the same for the same prompt, whichever process asks."""
    return np.random.default_rng((rules.seed, group.rows[0]))


def _candidates(group: PromptGroup, rules: PairRules) -> list[Preference]:
    scored = [i for i in range(len(group.sides)) if not math.isnan(group.scores[i])]
    order = sorted(scored, key=lambda i: -group.scores[i])
    if len(order) < 2:
        return []
    if rules.mode == "all_pairs":
        return [_scored(group, *pair) for pair in itertools.combinations(order, 2)]
    place = len(order) - 1
    if rules.mode == "best_vs_random":
        place = 1 + int(_random(group, rules).integers(len(order) - 1))
    return [_scored(group, order[0], order[place])]


def _scored(group: PromptGroup, chosen: int, rejected: int) -> Preference:
    scores = group.scores[chosen], group.scores[rejected]
    sides = (chosen, rejected)
    return Preference(sides, group.rows[chosen], group.margins[chosen], group.weights[chosen], scores)


def _left_out(group: PromptGroup, pair: Preference, rules: PairRules) -> str:
    """Name the rule that leaves a candidate out, "" if none does."""
    responses = [response_of(group.sides[side]) for side in pair.sides]
    if group.given is None and responses[0] == responses[1]:
        return "same"
    if pair.scores and pair.scores[0] == pair.scores[1]:
        return "tie"
    strength = pair.scores[0] - pair.scores[1] if pair.scores else pair.margin
    if strength is not None and strength < rules.min_margin:
        return "margin"
    if pair.scores and rules.min_ratio and pair.scores[0] < rules.min_ratio * pair.scores[1]:
        return "ratio"
    return ""


def make_lists(group: PromptGroup, least: int) -> tuple[list[Preference], Counter[str]]:
    """Make one list of all responses of a prompt, the best first; pairs that the rows name stay pairs.

    Args:
        group: has K responses with scores, or with pairs that are given.
        least: fewest responses of a list: 2 where they are compared, 1 where each has a value of its own.

    Returns:
        The list, or none; and what was left out: a response that says the same as an earlier one or that has no score
        (where lists are compared), a list that is too short then, or of which all answers are tied. Scores 1, 3, 3 give
        one list of 3 with a tie in it.
    """
    if group.given is not None:
        kept = [pair for pair in group.given if not pair.scores or pair.scores[0] != pair.scores[-1]]
        return kept, Counter(tie=len(group.given) - len(kept))
    by_response: dict[str, int] = {}
    for i, side in enumerate(group.sides):
        by_response.setdefault(response_of(side), i)
    different = list(by_response.values())
    dropped = Counter(repeated=len(group.sides) - len(different))
    if least > 1:
        scored = [i for i in different if not math.isnan(group.scores[i])]
        dropped += Counter(unscored=len(different) - len(scored))
        different = scored
    different.sort(key=lambda i: (math.isnan(group.scores[i]), -group.scores[i]))
    scores = tuple(group.scores[i] for i in different)
    if len(different) < least:
        return [], dropped + Counter(single=1)
    if least > 1 and len(set(scores)) == 1:
        return [], dropped + Counter(tie=1)
    weight = sum(group.weights[i] for i in different) / len(different)
    return [
        Preference(tuple(different), group.rows[different[0]], group.margins[different[0]], weight, scores)
    ], dropped


def margin_of(pair: Preference) -> float:
    """Give the strength of a preference: what the row says, else the difference of scores, else 0."""
    if pair.margin is not None:
        return pair.margin
    return pair.scores[0] - pair.scores[-1] if pair.scores else 0.0

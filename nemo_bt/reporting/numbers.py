"""Rewards of a validation set -> everything that the report says about it, as plain data. Pure numpy.

Shape suffixes: E = entries of the set's epoch; 2 = chosen, rejected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr, spearmanr

from nemo_bt.batching.packing import Floats
from nemo_bt.batching.shuffle import Ints
from nemo_bt.evaluation.accuracy import by_key, tally
from nemo_bt.evaluation.measure import length_bucket
from nemo_bt.reporting.rewards import KnownAnswers, SetRewards
from nemo_bt.reporting.robustness import robustness

NUM_WORST = 20
_CONFIDENCE_BINS = 10
_MARGIN_BINS = 40
_ROUNDING = {"32": 1e-5, "bf16-mixed": 2e-2}
"""Rounding of a reward by precision, where the mean magnitude is 1 or less; a larger mean multiplies it."""


@dataclass(frozen=True)
class JudgedSet:
    """A validation set with its rewards.

    Args:
        where: file and row of each entry.
        sources: name of each entry's source.
        characters_E2: lengths of the two responses in characters.
        known: its answers with their attributes; None where the model gives one reward.
    """

    name: str
    where: Sequence[str]
    sources: Sequence[str]
    characters_E2: Ints
    rewards: SetRewards
    known: KnownAnswers | None = None

    @property
    def kept(self) -> Ints:
        """Entries whose two rewards are finite."""
        return np.flatnonzero(np.isfinite(self.rewards.given_E2).all(axis=1))


def worst_of(judged: JudgedSet) -> list[int]:
    """Give the entries with the lowest margins, the lowest first."""
    kept = judged.kept
    reward_E2 = judged.rewards.given_E2[kept]
    order = kept[np.argsort(reward_E2[:, 0] - reward_E2[:, 1], kind="stable")].tolist()
    different = {(judged.where[entry], *judged.rewards.given_E2[entry].tolist()): entry for entry in reversed(order)}
    return list(different.values())[: -NUM_WORST - 1 : -1]  # a pair may be in an epoch several times


def numbers_of(judged: JudgedSet, precision: str) -> dict[str, Any]:
    """Compute all numbers of a set; `overall`, `by_source` and `by_length` are tallies.

    Args:
        judged: set with at least one entry that has rewards.
        precision: precision in which the rewards were computed.
    """
    given_E2 = judged.rewards.given_E2
    kept = judged.kept
    reward_E2 = given_E2[kept]
    characters_E2 = judged.characters_E2[kept]
    margin_E = reward_E2[:, 0] - reward_E2[:, 1]
    ratios = characters_E2[:, 0] / np.maximum(1, characters_E2[:, 1])
    counts, edges = np.histogram(margin_E, _MARGIN_BINS)
    return {
        "pairs": len(kept),
        "pairs_without_reward": len(given_E2) - len(kept),
        "overall": tally(reward_E2.tolist()).to_json(),
        "longer_wins": float((characters_E2[:, 0] > characters_E2[:, 1]).mean()),
        "shorter_wins": float((characters_E2[:, 0] < characters_E2[:, 1]).mean()),
        "reward_chosen": float(reward_E2[:, 0].mean()),
        "reward_rejected": float(reward_E2[:, 1].mean()),
        "reward_std": float(reward_E2.std()),
        "margin": float(margin_E.mean()),
        "margins": {"counts": counts.tolist(), "edges": edges.tolist()},
        "calibration": calibration(margin_E),
        "length": correlations(reward_E2, characters_E2),
        "by_source": _by(reward_E2, [judged.sources[entry] for entry in kept.tolist()]),
        "by_length": _by(reward_E2, [length_bucket(ratio) for ratio in ratios.tolist()]),
        "swapped": swap_test(reward_E2, judged.rewards.swapped_E2[kept], precision),
        "prompt_only": part_test(judged.rewards.prompt_E2, judged.rewards.known_E),
        "response_only": part_test(judged.rewards.response_E2, judged.rewards.known_E),
        "robustness": robustness(given_E2, judged.rewards.changed_E2, judged.where),
    }


def calibration(margin_E: Floats) -> dict[str, Any]:
    """Compare how sure a model is with how often it is right.

    Its confidence that the response with the higher reward was chosen is sigmoid(|margin|), [0.5, 1); a tie is half
    right. With ten bins of confidence, ECE = sum over bins of (share of pairs) |accuracy - mean confidence|.

    Source: Guo et al. 2017 (arXiv 1706.04599), equation 3.

    Returns:
        `ece`, and `bins` that have pairs, each with low, high, pairs, confidence and accuracy. Margins that are all 0
        have an ECE of 0; four margins of ln 3, three of them with the wrong sign, have one of 0.5.
    """
    confidence_E = 1 / (1 + np.exp(-np.abs(margin_E)))
    right_E = np.where(margin_E > 0, 1.0, np.where(margin_E < 0, 0.0, 0.5))
    limits = np.linspace(0.5, 1, _CONFIDENCE_BINS + 1)
    bin_E = np.clip(np.searchsorted(limits, confidence_E, side="right") - 1, 0, _CONFIDENCE_BINS - 1)
    bins = []
    ece = 0.0
    for number in np.unique(bin_E).tolist():
        inside = bin_E == number
        confidence = float(confidence_E[inside].mean())
        accuracy = float(right_E[inside].mean())
        ece += float(inside.mean()) * abs(accuracy - confidence)
        low, high = limits[number : number + 2].tolist()
        one = {"low": low, "high": high, "pairs": int(inside.sum())}
        bins.append(one | {"confidence": confidence, "accuracy": accuracy})
    return {"ece": ece, "bins": bins}


def correlations(reward: Floats, other: Ints | Floats) -> dict[str, float | None]:
    """Correlate the rewards of responses with their lengths, or with values; None where either never changes.

    Args:
        reward: rewards, of any shape.
        other: a number of each response, in the same shape.
    """
    rewards, others = reward.ravel(), other.ravel()
    if len(np.unique(rewards)) < 2 or len(np.unique(others)) < 2:
        return {"pearson": None, "spearman": None}
    return {
        "pearson": float(pearsonr(others, rewards).statistic),
        "spearman": float(spearmanr(others, rewards).statistic),
    }


def swap_test(given_E2: Floats, swapped_E2: Floats, precision: str) -> dict[str, Any]:
    """Check that every outcome turns when chosen and rejected are swapped: accuracy becomes 1 - accuracy - ties.

    Args:
        given_E2: finite rewards of the pairs as they are.
        swapped_E2: rewards of the same responses, computed with each pair the other way round.
        precision: precision in which both were computed.

    Returns:
        `accuracy` of the swapped pairs, the `expected` one, how many outcomes were `not_turned`, the largest difference
        of a reward (None where one is not finite), and whether the test `holds`: all outcomes turn, or the differences
        are no larger than the precision's rounding.
    """
    before = tally(given_E2.tolist())
    after = tally(swapped_E2[:, ::-1].tolist())
    turned = np.sign(given_E2[:, 0] - given_E2[:, 1]) == np.sign(swapped_E2[:, 0] - swapped_E2[:, 1])
    largest = float(np.abs(given_E2 - swapped_E2).max())
    rounding = _ROUNDING[precision] * max(1.0, float(np.abs(given_E2).mean()))
    return {
        "accuracy": after.accuracy,
        "expected": 1 - before.accuracy - before.ties / before.total,
        "not_turned": int((~turned).sum()),
        "largest_difference": largest if math.isfinite(largest) else None,
        "holds": bool(turned.all()) or largest <= rounding,
    }


def part_test(reward_E2: Floats, known_E: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Measure how well rewards of a part of the conversations rank the pairs.

    Args:
        reward_E2: rewards of the parts; NaN where there is none.
        known_E: whether it is known where the responses start.

    Returns:
        A `tally` of the pairs that have rewards, None where none has, and the number of pairs that were `refused`: the
        chat template does not render their parts, or these are too long.
    """
    kept = np.isfinite(reward_E2).all(axis=1)
    counted = tally(reward_E2[kept].tolist()).to_json() if kept.any() else None
    return {"tally": counted, "refused": int((known_E & ~kept).sum())}


def _by(reward_E2: Floats, keys: Sequence[str]) -> dict[str, Any]:
    return {key: one.to_json() for key, one in by_key(reward_E2.tolist(), keys).items()}

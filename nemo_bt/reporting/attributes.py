"""Attributes of a model -> how well each gives what the data says of it, and how well it ranks by itself. Pure numpy.

Shape suffixes: E = entries of the set's epoch, N = answers, A = attributes; 2 = chosen, rejected.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nemo_bt.batching.packing import Floats
from nemo_bt.evaluation.accuracy import tally
from nemo_bt.reporting.numbers import JudgedSet, correlations
from nemo_bt.reporting.rewards import KnownAnswers


def numbers_of_attributes(judged: JudgedSet, known: KnownAnswers) -> dict[str, Any]:
    """Compute the numbers of each attribute, by name.

    Returns:
        `weight` in the reward; `known` and `unknown`, the numbers of answers with and without a value; `error`, the
        mean over the known ones, of the kind `error_kind`, and `pearson` and `spearman` of rewards and values, None
        where there is none or either never changes; `overall`, the tally of the set's pairs by this attribute alone;
        and `length`, the correlations of its rewards with the lengths of the responses of these pairs.
    """
    attribute_E2A = judged.rewards.attribute_E2A
    assert attribute_E2A is not None  # the model has attributes
    kept, characters_E2 = judged.kept, judged.characters_E2[judged.kept]
    found: dict[str, Any] = {}
    for number, (name, weight) in enumerate(known.weights.items()):
        value_N, reward_N = known.value_NA[:, number], known.reward_NA[:, number]
        is_known_N = np.isfinite(value_N) & np.isfinite(reward_N)
        reward_E2 = attribute_E2A[kept, :, number]
        found[name] = {
            "weight": weight,
            "known": int(is_known_N.sum()),
            "unknown": int((~is_known_N).sum()),
            "error_kind": known.error,
            "error": _error(reward_N[is_known_N], value_N[is_known_N], known.error),
            **correlations(reward_N[is_known_N], value_N[is_known_N]),
            "overall": tally(reward_E2.tolist()).to_json(),
            "length": correlations(reward_E2, characters_E2),
        }
    return found


def _error(reward_N: Floats, value_N: Floats, error: str) -> float | None:
    """Take the mean of `nemo_bt.losses.regression.value_errors`."""
    if not len(reward_N):
        return None
    each_N = (reward_N - value_N) ** 2 if error == "mse" else np.logaddexp(0, reward_N) - value_N * reward_N
    return float(each_N.mean())

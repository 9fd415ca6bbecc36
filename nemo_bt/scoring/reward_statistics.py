"""Where a model's rewards lie: their mean and deviation on validation, which stay with the model.

The Bradley-Terry loss fixes neither of them. Rewards that are normalised by them can be compared between models, and
have the scale that reinforcement learning expects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nemo_bt.config.loss import TAKES
from nemo_bt.errors import UserError
from nemo_bt.pretrained.nemo_metadata import FACTS, read_facts
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource
from nemo_bt.pretrained.trained_head import TRAINED_HEAD, was_trained_on

KEY = "reward_statistics"
"""Key in the config.json of an export."""
_LEAST = 1e-6
"""Least ratio of standard deviation to mean; below it the deviation is rounding."""


@dataclass(frozen=True)
class RewardStatistics:
    """Mean and deviation of all rewards of the last validation: of both responses of pairs, of all answers of lists.

    Args:
        mean: mean reward.
        std: standard deviation of the population.
        responses: number of responses, two a pair; each counts once for each pair or list that it is in.
        step: step of the model that gave the rewards.

    Raises:
        ValueError: no reward can be normalized by these numbers.
    """

    mean: float
    std: float
    responses: int
    step: int

    def __post_init__(self) -> None:
        numbers = (self.mean, self.std, self.responses, self.step)
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError(f"expected finite numbers, got {numbers}")
        if self.std <= _LEAST * abs(self.mean):
            raise ValueError(f"expected a std of more than rounding, got {self.std} with a mean of {self.mean}")

    def normalize(self, reward: float) -> float:
        """Give (reward - mean) / std."""
        return (reward - self.mean) / self.std


def reward_statistics(validation: Mapping[str, float]) -> RewardStatistics | None:
    """Join the statistics of all sets of a validation, given as step and metrics by name.

    Returns:
        None where there was no validation, a reward was not finite, or all were equal. Two sets of one pair each, with
        rewards (1, -1) and (3, 1), have mean 1 and variance 2.
    """
    names = [name.removesuffix("/reward_std") for name in validation if name.endswith("/reward_std")]
    if not names:
        return None
    of_sets = [_of_set(validation, name) for name in names]
    responses = sum(number for number, _, _ in of_sets)
    mean = sum(number * mean for number, mean, _ in of_sets) / responses
    square = sum(number * (std**2 + mean**2) for number, mean, std in of_sets) / responses
    variance = square - mean**2
    if not variance > (_LEAST * mean) ** 2 or not math.isfinite(variance):  # NaN is not greater
        return None
    return RewardStatistics(mean, math.sqrt(variance), round(responses), int(validation["step"]))


def _of_set(validation: Mapping[str, float], name: str) -> tuple[float, float, float]:
    """Give the number of responses of a set, and the mean and the deviation of their rewards."""
    if f"{name}/answers" in validation:
        return validation[f"{name}/answers"], validation[f"{name}/reward_mean"], validation[f"{name}/reward_std"]
    mean = (validation[f"{name}/reward_chosen"] + validation[f"{name}/reward_rejected"]) / 2
    return 2 * validation[f"{name}/pairs"], mean, validation[f"{name}/reward_std"]


def statistics_of(pretrained: PretrainedSource) -> RewardStatistics | None:
    """Give the statistics that a model has, from the training that a .nemo comes from, else from its config.json.

    Attributes may get other weights, which make another reward: these models have none. Nor have models of lists that
    an earlier version trained, which measured the best and the worst answer alone.

    Raises:
        UserError: the statistics are not as nemo_bt writes them.
    """
    facts: dict[str, Any] = {}
    try:
        facts = read_facts(pretrained.nemo_file.context) if pretrained.nemo_file else {}
        if facts:
            model = facts["settings"]["model"] if "settings" in facts else {}
            is_of_pairs = model.get("loss", {}).get("kind", "bradley_terry") not in TAKES
            is_of_all = is_of_pairs or any(name.endswith("/answers") for name in facts["validation"])
            is_one = not model.get("reward_head", {}).get("attributes") and not pretrained.architecture.attributes
            return reward_statistics(facts["validation"]) if is_of_all and is_one else None
        found = pretrained.hf_config.get(KEY)
        return RewardStatistics(**found) if found else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"context/{FACTS} is not as nemo_bt writes it" if facts else f"its {KEY} are not as nemo_bt writes them"
        raise UserError(f"{pretrained.given}: {what} ({error!r}). Remove {'it' if facts else 'them'}.") from error


def needed_statistics(pretrained: PretrainedSource, setting: str) -> RewardStatistics:
    """Give the statistics of a model that needs them; `setting` asks for them, and the message names it.

    Raises:
        UserError: the model has none, or `statistics_of` cannot read them.
    """
    found = statistics_of(pretrained)
    if not found:
        raise UserError(
            f"{setting}: {pretrained.given} has no {KEY}: none came with it, or it was saved before a validation with "
            "finite rewards. Leave it out, or train with model.data.validation."
        )
    return found


def own_statistics(initial: InitialWeights, setting: str) -> RewardStatistics:
    """Give the statistics of the rewards that these weights give; `setting` asks for them.

    Raises:
        UserError: the model has none, or was trained on since they were measured.
    """
    found = needed_statistics(initial.pretrained, setting)
    if was_trained_on(initial):
        raise UserError(
            f"{setting}: {initial.pretrained.given} was trained on since its {KEY} were measured: it has adapters, or "
            f"another head than {TRAINED_HEAD} of config.json. Leave it out."
        )
    return found


def as_config(statistics: RewardStatistics | None) -> dict[str, Any]:
    """Give the entry of the statistics in config.json."""
    return {KEY: asdict(statistics)} if statistics else {}

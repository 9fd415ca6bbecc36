"""Where a model's rewards lie: their mean and deviation on validation, which stay with the model.

Bradley-Terry leaves both open. Rewards that are normalised by them can be compared between models, and have the scale
that reinforcement learning expects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nemo_bt.errors import UserError
from nemo_bt.pretrained.nemo_metadata import FACTS
from nemo_bt.pretrained.resolve import PretrainedSource

KEY = "reward_statistics"
"""In the config.json of an export."""
_LEAST = 1e-6
"""Standard deviation over the mean: less is rounding."""


@dataclass(frozen=True)
class RewardStatistics:
    """Of all rewards of the last validation.

    Args:
        mean: of them.
        std: their standard deviation, of the population.
        responses: their number, two a pair.
        step: of the model that gave them.

    Raises:
        ValueError: no rewards can be normalized by these.
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
        """(reward - mean) / std."""
        return (reward - self.mean) / self.std


def reward_statistics(validation: Mapping[str, float]) -> RewardStatistics | None:
    """Of all validation sets together, each response counted once for each pair.

    Args:
        validation: step and metrics of a validation, by name.

    Returns:
        None where there was no validation, a reward was not finite, or all were equal. Two sets of one pair each, with
        rewards (1, -1) and (3, 1), have mean 1 and variance 2.
    """
    names = [name.removesuffix("/reward_std") for name in validation if name.endswith("/reward_std")]
    if not names:
        return None
    pairs = [validation[f"{name}/pairs"] for name in names]
    means = [(validation[f"{name}/reward_chosen"] + validation[f"{name}/reward_rejected"]) / 2 for name in names]
    squares = [validation[f"{name}/reward_std"] ** 2 + mean**2 for name, mean in zip(names, means, strict=True)]
    mean = sum(n * one for n, one in zip(pairs, means, strict=True)) / sum(pairs)
    square = sum(n * one for n, one in zip(pairs, squares, strict=True)) / sum(pairs)
    variance = square - mean**2
    if not variance > (_LEAST * mean) ** 2 or not math.isfinite(variance):  # NaN is not greater
        return None
    return RewardStatistics(mean, math.sqrt(variance), round(2 * sum(pairs)), int(validation["step"]))


def statistics_of(pretrained: PretrainedSource) -> RewardStatistics | None:
    """Those that a model has: of the training that a .nemo comes from, else of its config.json.

    Raises:
        UserError: they are not as nemo_bt writes them.
    """
    file = pretrained.nemo_file.context / FACTS if pretrained.nemo_file else None
    try:
        facts: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}
        if facts:
            return reward_statistics(facts["validation"])
        found = pretrained.hf_config.get(KEY)
        return RewardStatistics(**found) if found else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{pretrained.given}: its {KEY} are not as nemo_bt writes them ({error!r}). Remove them."
        ) from error


def needed_statistics(pretrained: PretrainedSource, setting: str) -> RewardStatistics:
    """As `statistics_of`, where there have to be some.

    Args:
        pretrained: of the model.
        setting: that asks for them, for the message.

    Raises:
        UserError: there are none.
    """
    found = statistics_of(pretrained)
    if not found:
        raise UserError(
            f"{setting}: {pretrained.given} has no {KEY}: none came with it, or it was saved before a validation with "
            "finite rewards. Leave it out, or train with model.data.validation."
        )
    return found


def as_config(statistics: RewardStatistics | None) -> dict[str, Any]:
    """What stands of them in config.json."""
    return {KEY: asdict(statistics)} if statistics else {}

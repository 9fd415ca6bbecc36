"""Regression: rewards that are to be what the data says of an answer, its score or its attributes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_bt.losses.comparisons import Comparisons


def regression_loss(given: Comparisons, error: Literal["mse", "bce"]) -> Tensor:
    """Compute the mean error over the known values of each comparison's answers.

    mse: (reward - value)^2
    bce: -value log sigmoid(reward) - (1 - value) log sigmoid(-reward)      value in [0, 1]

    The values are attributes where the head has them, else scores. One that is not known is left out.

    Source: Wang et al. 2023 (arXiv 2311.09528) for attributes, with NeMo-Aligner's mean over those that are known.

    Args:
        given: answers to a prompt, one or several; every answer has a value.
        error: which error.

    Returns:
        [P]; nats for bce, squared units of the values for mse. Rewards 1 and 2 for values 0 and 2 give 0.5 (mse).
    """
    if given.attribute_PKA is None or given.attribute_reward_PKA is None:
        reward, value = given.reward_PK, given.score_PK
    else:
        reward, value = given.attribute_reward_PKA, given.attribute_PKA
    is_known = value.isfinite()
    each = value_errors(reward, value, error).flatten(1).sum(1)
    return given.weight_P * each / is_known.flatten(1).sum(1).clamp(min=1)


def value_errors(reward: Tensor, value: Tensor, error: Literal["mse", "bce"]) -> Tensor:
    """Compute the error of each reward against its value, both of any shape; 0 where the value is not known."""
    is_known = value.isfinite()
    value = torch.where(is_known, value, 0.0)
    if error == "mse":
        each = (reward - value) ** 2
    else:
        each = F.binary_cross_entropy_with_logits(reward, value, reduction="none")
    return torch.where(is_known, each, 0.0)

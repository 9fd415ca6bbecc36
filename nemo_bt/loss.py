"""Bradley-Terry loss: where a preference becomes a number to minimise. Other signals have theirs in `nemo_bt.losses`.

Shape suffixes: P = pairs of one micro-batch on this rank. Pure torch, fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_bt.config.loss import LossSettings, strength_map

LossFn: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(chosen_reward_P, rejected_reward_P, margin_P, weight_P) -> loss_P: five tensors of [P], float32; the loss in nats.

It is called once for each stream, with its P pairs, on the rank that has their rewards; a stream may have none.
The step's loss is the sum over all pairs divided by their number, so a pair's loss may depend on that pair alone. The
weight of a pair is the function's to apply. Its arguments are not its own: it changes none in place. A function of one
argument is a `nemo_bt.losses.comparisons.ComparisonLoss` instead, which lists, scores and attributes need.
"""


def bradley_terry_loss(
    chosen_reward_P: Tensor,
    rejected_reward_P: Tensor,
    margin_P: Tensor,
    weight_P: Tensor,
    settings: LossSettings,
    preference_P: Tensor | None = None,
) -> Tensor:
    """Compute the negative log-likelihood, in nats, that each chosen response beats its rejected one.

    d    = chosen - rejected - margin (margin only with `settings.margin`)
    loss = (1 - e) * -log sigmoid(d) + e * -log sigmoid(-d)      e = label_smoothing + (1 - 2 label_smoothing) (1 - p)
    loss = margin * loss                                          with `settings.scale`, or what its map has for it
    loss = loss + c * (chosen + rejected)^2                       c = center_rewards_coefficient
    loss = weight * loss

    Source: Ouyang et al. 2022 (arXiv 2203.02155) eq. 1 with K = 2; margin: Touvron et al. 2023 (2307.09288)
    eq. 2; scale: "scaled Bradley-Terry" of Wang et al. 2024 (2410.01257); centering: Eisenstein et al. 2023
    (2312.09244); p, a soft label: Mitchell 2023, cDPO, with one probability for each pair.

    Args:
        chosen_reward_P: [P], float32, as all tensors here.
        rejected_reward_P: reward of the other response to the same prompt.
        margin_P: strength of the preference; only read by `margin` and `scale`.
        weight_P: factor on each pair's loss; the mean over pairs still divides by their number.
        preference_P: p, the probability that the chosen response is better; None is 1 for all.

    Returns:
        Loss of each pair, [P], nats. Equal rewards and no extra term give ln 2 = 0.693.
    """
    difference_P = chosen_reward_P - rejected_reward_P
    if settings.margin:
        difference_P = difference_P - margin_P
    loss_P = -F.logsigmoid(difference_P)
    is_wrong: float | Tensor = settings.label_smoothing
    if preference_P is not None:
        is_wrong = is_wrong + (1 - 2 * is_wrong) * (1 - preference_P)
    if preference_P is not None or settings.label_smoothing:
        loss_P = (1 - is_wrong) * loss_P + is_wrong * -F.logsigmoid(-difference_P)
    if settings.scale:
        loss_P = _scale(margin_P, settings) * loss_P
    if settings.center_rewards_coefficient:
        loss_P = loss_P + settings.center_rewards_coefficient * (chosen_reward_P + rejected_reward_P) ** 2
    return weight_P * loss_P


def _scale(margin_P: Tensor, settings: LossSettings) -> Tensor:
    """Give the factor of each pair: its margin, or what the map has for it."""
    if not isinstance(settings.scale, dict):
        return margin_P
    scale_P = torch.full_like(margin_P, torch.nan)
    for strength, factor in strength_map(settings.scale).items():
        scale_P = torch.where(margin_P == strength, factor, scale_P)
    return scale_P

"""Bradley-Terry loss: the only place where a preference becomes a number to minimise.

Shape suffixes: P = pairs of one micro-batch on this rank. Pure torch, fp32.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from nemo_bt.config.model import LossSettings


def bradley_terry_loss(
    chosen_reward_P: Tensor, rejected_reward_P: Tensor, margin_P: Tensor, weight_P: Tensor, settings: LossSettings
) -> Tensor:
    """Negative log-likelihood, in nats, that each chosen response beats its rejected one.

    d    = chosen - rejected - margin (margin only with `settings.margin`)
    loss = (1 - e) * -log sigmoid(d) + e * -log sigmoid(-d)      e = label_smoothing
    loss = margin * loss                                          with `settings.scale`
    loss = loss + c * (chosen + rejected)^2                       c = center_rewards_coefficient
    loss = weight * loss

    Source: Ouyang et al. 2022 (arXiv 2203.02155) eq. 1 with K = 2; margin: Touvron et al. 2023 (2307.09288)
    eq. 2; scale: "scaled Bradley-Terry" of Wang et al. 2024 (2410.01257); centering: Eisenstein et al. 2023
    (2312.09244).

    Args:
        chosen_reward_P: reward of the preferred response, [P], float32.
        rejected_reward_P: reward of the other response to the same prompt, [P], float32.
        margin_P: strength of the preference, [P], float32; only read by `margin` and `scale`.
        weight_P: factor on each pair's loss, [P], float32; the mean over pairs still divides by their number.
        settings: which terms are on.

    Returns:
        Loss of each pair, [P], nats. Equal rewards and no extra term give ln 2 = 0.693.
    """
    difference_P = chosen_reward_P - rejected_reward_P
    if settings.margin:
        difference_P = difference_P - margin_P
    loss_P = -F.logsigmoid(difference_P)
    if settings.label_smoothing:
        wrong_P = -F.logsigmoid(-difference_P)
        loss_P = (1 - settings.label_smoothing) * loss_P + settings.label_smoothing * wrong_P
    if settings.scale:
        loss_P = margin_P * loss_P
    if settings.center_rewards_coefficient:
        loss_P = loss_P + settings.center_rewards_coefficient * (chosen_reward_P + rejected_reward_P) ** 2
    return weight_P * loss_P

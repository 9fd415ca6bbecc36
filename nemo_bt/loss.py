"""Bradley-Terry loss: the only place where a preference becomes a number to minimise.

Shape suffixes: P = pairs of one micro-batch on this rank. Pure torch, fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_bt.config.custom import load_object
from nemo_bt.config.model import LossSettings
from nemo_bt.errors import UserError

LossFn: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(chosen_reward_P, rejected_reward_P, margin_P, weight_P) -> loss_P: five tensors of [P], float32; the loss in nats.

It is called once for each stream, with its P pairs, on the rank that has their rewards; a stream may have none.
The step's loss is the sum over all pairs divided by their number, so a pair's loss may depend on that pair alone. The
weight of a pair is the function's to apply. Its arguments are not its own: it changes none in place.
"""


def bradley_terry_loss(
    chosen_reward_P: Tensor, rejected_reward_P: Tensor, margin_P: Tensor, weight_P: Tensor, settings: LossSettings
) -> Tensor:
    """Compute the negative log-likelihood, in nats, that each chosen response beats its rejected one.

    d    = chosen - rejected - margin (margin only with `settings.margin`)
    loss = (1 - e) * -log sigmoid(d) + e * -log sigmoid(-d)      e = label_smoothing
    loss = margin * loss                                          with `settings.scale`
    loss = loss + c * (chosen + rejected)^2                       c = center_rewards_coefficient
    loss = weight * loss

    Source: Ouyang et al. 2022 (arXiv 2203.02155) eq. 1 with K = 2; margin: Touvron et al. 2023 (2307.09288)
    eq. 2; scale: "scaled Bradley-Terry" of Wang et al. 2024 (2410.01257); centering: Eisenstein et al. 2023
    (2312.09244).

    Args:
        chosen_reward_P: [P], float32, as all tensors here.
        rejected_reward_P: reward of the other response to the same prompt.
        margin_P: strength of the preference; only read by `margin` and `scale`.
        weight_P: factor on each pair's loss; the mean over pairs still divides by their number.

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


def loss_function(settings: LossSettings, loss_fn: LossFn | None = None) -> LossFn:
    """Choose the loss of a run: `loss_fn` from Python, one that the settings name, or Bradley-Terry.

    Raises:
        UserError: the named function is not there; it, or the one given, does not keep to `LossFn`.
    """
    named = settings.custom_fn
    if loss_fn is None and named.name is None:
        return partial(bradley_terry_loss, settings=settings)
    if loss_fn is None:
        loss_fn = load_object(named.path, str(named.name), "model.loss.custom_fn")
    check_loss_function(loss_fn)
    return loss_fn


def check_loss_function(loss_fn: LossFn) -> None:
    """Check a loss function by calling it on two pairs, and on none.

    Raises:
        UserError: it gives something else than `LossFn` says.
    """
    for num_pairs in (2, 0):
        reward_P = torch.linspace(1.0, -1.0, num_pairs, requires_grad=True) * 1  # no leaf, as in training
        given = (reward_P, -reward_P, torch.zeros(num_pairs), torch.ones(num_pairs))
        try:
            loss_P = loss_fn(*given)
        except (TypeError, ArithmeticError, LookupError, RuntimeError) as error:
            if num_pairs and not isinstance(error, TypeError):
                raise  # it shows its own line
            takes = "fn(chosen_reward_P, rejected_reward_P, margin_P, weight_P), also without a pair"
            raise UserError(f"loss function, with {num_pairs} pairs: {error}. Expected {takes}.") from error
        if any(tensor._version for tensor in given):
            raise UserError("loss function: expected its arguments left as they are, got one changed in place.")
        found = f"{tuple(loss_P.shape)} of {loss_P.dtype}" if isinstance(loss_P, Tensor) else type(loss_P).__name__
        if found != (wanted := f"({num_pairs},) of torch.float32"):
            raise UserError(f"loss function: expected a loss for each of {num_pairs} pairs, {wanted}, got {found}.")
        if not loss_P.requires_grad:
            raise UserError("loss function: expected a loss that depends on the rewards, got one without a gradient.")

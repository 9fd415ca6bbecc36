"""Whether a loss function of a user's own keeps to its contract, `LossFn` or `ComparisonLoss`: it is tried."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.loss import LossFn
from nemo_bt.losses.comparisons import ComparisonLoss, Comparisons

_OF_PAIRS = "fn(chosen_reward_P, rejected_reward_P, margin_P, weight_P), also without a pair"
_OF_COMPARISONS = "fn(given), where given has what nemo_bt.losses.comparisons.Comparisons says, also without a pair"


def takes_comparisons(loss_fn: Callable[..., Any]) -> bool:
    """Tell whether a function has one argument without a default: the contract `ComparisonLoss`, not `LossFn`."""
    try:
        parameters = inspect.signature(loss_fn).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in positional and one.default is one.empty for one in parameters) == 1


def check_loss_function(
    loss_fn: LossFn | ComparisonLoss, takes: str = "pairs", num_attributes: int = 0, has_soft_labels: bool = False
) -> None:
    """Check a loss function by calling it on two comparisons, and on none.

    Args:
        takes: pairs, lists or answers.
        num_attributes: attributes that each answer has; 0 is one reward.
        has_soft_labels: whether preferences are probabilities.

    Raises:
        UserError: it gives something else than its contract says, or its contract lacks what the data has.
    """
    is_general = takes_comparisons(loss_fn)
    if not is_general and (takes != "pairs" or has_soft_labels):
        what = "the probabilities of model.data.preference_key" if takes == "pairs" else f"whole {takes}"
        raise UserError(f"loss function: one of four arguments does not get {what}. Expected {_OF_COMPARISONS}.")
    for number in (2, 0):
        reward_P = torch.linspace(1.0, -1.0, number, requires_grad=True) * 1  # no leaf, as in training
        given: Any = (reward_P, -reward_P, torch.zeros(number), torch.ones(number))
        read = given
        if is_general:
            read = (tried(reward_P, takes, num_attributes, has_soft_labels),)
            given = [tensor for tensor in vars(read[0]).values() if isinstance(tensor, Tensor)]
        _check(loss_fn, number, read, given, _OF_COMPARISONS if is_general else _OF_PAIRS)


def tried(reward_P: Tensor, takes: str, num_attributes: int, has_soft_labels: bool) -> Comparisons:
    """Make comparisons to try a function on: pairs, or lists of two and three, with attributes where there are some."""
    number = len(reward_P)
    sides = [reward_P, -reward_P] if takes == "pairs" else [reward_P, -reward_P, reward_P / 2]
    reward_PK = torch.stack(sides, dim=1)
    is_there_PK = None
    score_PK = torch.linspace(1.0, 0.0, len(sides)).expand(number, -1).clone()
    if takes != "pairs":
        is_there_PK = torch.ones_like(reward_PK, dtype=torch.bool)
        is_there_PK[:1, 2:] = False
        reward_PK = torch.where(is_there_PK, reward_PK, 0.0)
        score_PK[~is_there_PK] = torch.nan
    shape = (number, len(sides), num_attributes)
    return Comparisons(
        reward_PK,
        is_there_PK,
        score_PK,
        margin_P=torch.zeros(number),
        preference_P=torch.full((number,), 0.75) if has_soft_labels else None,
        weight_P=torch.ones(number),
        attribute_reward_PKA=reward_PK[:, :, None].expand(shape) if num_attributes else None,
        attribute_PKA=torch.ones(shape) if num_attributes else None,
        tokens_PK=(reward_PK.detach() != 0) * 20.0,
    )


def _check(loss_fn: Callable[..., Any], number: int, read: Any, given: Any, expected: str) -> None:
    before = [tensor._version for tensor in given]
    try:
        loss_P = loss_fn(*read)
    except (TypeError, ArithmeticError, LookupError, RuntimeError) as error:
        if number and not isinstance(error, TypeError):
            raise  # it shows its own line
        raise UserError(f"loss function, with {number} pairs: {error}. Expected {expected}.") from error
    if [tensor._version for tensor in given] != before:
        raise UserError("loss function: expected its arguments left as they are, got one changed in place.")
    found = f"{tuple(loss_P.shape)} of {loss_P.dtype}" if isinstance(loss_P, Tensor) else type(loss_P).__name__
    if found != (wanted := f"({number},) of torch.float32"):
        raise UserError(f"loss function: expected a loss for each of {number} pairs, {wanted}, got {found}.")
    if not loss_P.requires_grad:
        raise UserError("loss function: expected a loss that depends on the rewards, got one without a gradient.")

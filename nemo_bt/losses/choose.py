"""Settings -> the loss of a run, with every comparison's loss as a function of its rewards."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nemo_bt.config.custom import load_object
from nemo_bt.config.loss import LossSettings
from nemo_bt.errors import UserError
from nemo_bt.loss import LossFn, bradley_terry_loss
from nemo_bt.losses.comparisons import ComparisonLoss, Comparisons
from nemo_bt.losses.hinge import hinge_loss
from nemo_bt.losses.plackett_luce import plackett_luce_loss
from nemo_bt.losses.regression import regression_loss
from nemo_bt.losses.ties import davidson_loss, rao_kupper_loss

AnyLoss: TypeAlias = LossFn | ComparisonLoss
"""A loss of one's own: of pairs alone, or of all that the data says."""


def loss_function(settings: LossSettings, loss_fn: AnyLoss | None = None) -> ComparisonLoss:
    """Choose the loss of a run: `loss_fn` from Python, one that the settings name, or one of this project's.

    Raises:
        UserError: the named function is not there; it, or the one given, does not keep to `LossFn` or `ComparisonLoss`.
    """
    named = settings.custom_fn
    if loss_fn is None and named.name is None:
        ranking = _built_in(settings)
        if not settings.regression_coefficient:
            return ranking
        return partial(_mixed, ranking, settings)
    if loss_fn is None:
        loss_fn = load_object(named.path, str(named.name), "model.loss.custom_fn")
    check_loss_function(loss_fn)
    given: Any = loss_fn
    return given if takes_comparisons(loss_fn) else partial(_of_pairs, given)


def _built_in(settings: LossSettings) -> ComparisonLoss:
    lead = None if settings.margin else settings.hinge_margin
    losses: dict[str, ComparisonLoss] = {
        "bradley_terry": partial(_bradley_terry, settings=settings),
        "hinge": partial(hinge_loss, lead=lead),
        "rao_kupper": partial(rao_kupper_loss, tie=settings.tie),
        "davidson": partial(davidson_loss, tie=settings.tie),
        "plackett_luce": plackett_luce_loss,
        "regression": partial(regression_loss, error=settings.regression_error),
    }
    return losses[settings.kind]


def _bradley_terry(given: Comparisons, settings: LossSettings) -> Tensor:
    of_pairs = (given.chosen, given.rejected, given.margin_P, given.weight_P)
    return bradley_terry_loss(*of_pairs, settings, given.preference_P)


def _mixed(ranking: ComparisonLoss, settings: LossSettings, given: Comparisons) -> Tensor:
    """Compute the ranking loss plus regression_coefficient times the regression loss."""
    return ranking(given) + settings.regression_coefficient * regression_loss(given, settings.regression_error)


def _of_pairs(loss_fn: Callable[..., Tensor], given: Comparisons) -> Tensor:
    return loss_fn(given.chosen, given.rejected, given.margin_P, given.weight_P)


def takes_comparisons(loss_fn: Callable[..., Any]) -> bool:
    """Tell whether a function has one argument without a default: the contract `ComparisonLoss`, not `LossFn`."""
    try:
        parameters = inspect.signature(loss_fn).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in positional and one.default is one.empty for one in parameters) == 1


def check_loss_function(loss_fn: AnyLoss) -> None:
    """Check a loss function by calling it on two pairs, and on none.

    Raises:
        UserError: it gives something else than its contract says.
    """
    for num_pairs in (2, 0):
        reward_P = torch.linspace(1.0, -1.0, num_pairs, requires_grad=True) * 1  # no leaf, as in training
        of_pairs = (reward_P, -reward_P, torch.zeros(num_pairs), torch.ones(num_pairs))
        given: tuple[Any, ...] = of_pairs
        takes = "fn(chosen_reward_P, rejected_reward_P, margin_P, weight_P), also without a pair"
        if takes_comparisons(loss_fn):
            reward_PK = torch.stack(of_pairs[:2], dim=1)
            score_PK = torch.tensor([[1.0, 0.0]]).expand(num_pairs, 2)
            given = (Comparisons(reward_PK, None, score_PK, of_pairs[2], None, of_pairs[3]),)
            of_pairs = (reward_PK, *of_pairs[2:])  # type: ignore[assignment]
            takes = "fn(given), with given.reward_PK and all that Comparisons has, also without a pair"
        try:
            loss_P = loss_fn(*given)
        except (TypeError, ArithmeticError, LookupError, RuntimeError) as error:
            if num_pairs and not isinstance(error, TypeError):
                raise  # it shows its own line
            raise UserError(f"loss function, with {num_pairs} pairs: {error}. Expected {takes}.") from error
        if any(tensor._version for tensor in of_pairs):
            raise UserError("loss function: expected its arguments left as they are, got one changed in place.")
        found = f"{tuple(loss_P.shape)} of {loss_P.dtype}" if isinstance(loss_P, Tensor) else type(loss_P).__name__
        if found != (wanted := f"({num_pairs},) of torch.float32"):
            raise UserError(f"loss function: expected a loss for each of {num_pairs} pairs, {wanted}, got {found}.")
        if not loss_P.requires_grad:
            raise UserError("loss function: expected a loss that depends on the rewards, got one without a gradient.")

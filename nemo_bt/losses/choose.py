"""Settings -> the loss of a run, with every comparison's loss as a function of its rewards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from nemo_bt.config.custom import load_object
from nemo_bt.config.loss import LossSettings
from nemo_bt.loss import LossFn, bradley_terry_loss
from nemo_bt.losses.comparisons import ComparisonLoss, Comparisons
from nemo_bt.losses.contract import check_loss_function, takes_comparisons
from nemo_bt.losses.hinge import hinge_loss
from nemo_bt.losses.length import length_covariance
from nemo_bt.losses.plackett_luce import plackett_luce_loss
from nemo_bt.losses.regression import regression_loss
from nemo_bt.losses.ties import davidson_loss, rao_kupper_loss

AnyLoss: TypeAlias = LossFn | ComparisonLoss
"""A loss of one's own: of pairs alone, or of all that the data says."""


def loss_function(
    settings: LossSettings,
    loss_fn: AnyLoss | None = None,
    num_attributes: int = 0,
    has_soft_labels: bool = False,
) -> ComparisonLoss:
    """Choose the loss of a run: `loss_fn` from Python, one that the settings name, or one of this project's.

    Args:
        num_attributes: attributes of the head, which a function of one's own is tried with.
        has_soft_labels: whether the data says how sure a preference is.

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
    check_loss_function(loss_fn, settings.takes, num_attributes, has_soft_labels)
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
    loss_P = bradley_terry_loss(*of_pairs, settings, given.preference_P)
    if settings.length_penalty:
        of_length_P = given.weight_P * length_covariance(given, settings.length_scale_tokens)
        loss_P = loss_P + settings.length_penalty * of_length_P
    return loss_P


def _mixed(ranking: ComparisonLoss, settings: LossSettings, given: Comparisons) -> Tensor:
    """Compute the ranking loss plus regression_coefficient times the regression loss."""
    return ranking(given) + settings.regression_coefficient * regression_loss(given, settings.regression_error)


def _of_pairs(loss_fn: Callable[..., Tensor], given: Comparisons) -> Tensor:
    return loss_fn(given.chosen, given.rejected, given.margin_P, given.weight_P)

"""Whether a source has what the loss reads: margins, strengths, ties, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nemo_bt.batching.sampling import Ints
from nemo_bt.config.loss import WITH_TIES, LossSettings, strength_map
from nemo_bt.config.model import Settings
from nemo_bt.data.store.cache import CachedSource
from nemo_bt.data.store.records import ATTRIBUTE
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal


def check_signal(name: str, part: CachedSource, settings: Settings, terminal: Terminal) -> None:
    """Check that a source can feed the loss of the run, and say what the loss makes little use of.

    Args:
        name: name of the set.

    Raises:
        UserError: it lacks what the loss reads, or has values that the loss cannot take. Names the column that would
            feed it.
    """
    loss = settings.model.loss
    if not len(part) or loss.custom_fn.name:
        return
    _check_margins(name, part, loss, terminal)
    if loss.kind in WITH_TIES and not (part.columns["preference"] == 0.5).any():
        terminal.line(f"{name}: {part.name} has no ties, for which model.loss.kind={loss.kind} is made")
    if loss.kind == "regression" or loss.regression_coefficient:
        attributes = settings.model.reward_head.attributes
        if attributes:
            _check_attributes(name, part, attributes, loss, terminal)
        else:
            _check_range(part, part.sides["score"], "score", loss)


def _check_margins(name: str, part: CachedSource, loss: LossSettings, terminal: Terminal) -> None:
    margins = part.columns["margin"]
    terms = [f"model.loss.{term}" for term in ("margin", "scale") if getattr(loss, term)]
    if terms and not margins.any():
        if name != "train" and terms == ["model.loss.margin"] and loss.kind == "bradley_terry":
            terminal.line(f"{name}: no pair has a margin; its loss is without one")
            return
        raise UserError(
            f"{terms[0]}=true: no pair of {part.name} has a margin. Set model.data.margin_key to a column of numbers, "
            "or turn it off."
        )
    if isinstance(loss.scale, dict):
        known = np.array(list(strength_map(loss.scale)), dtype=margins.dtype)
        other = np.flatnonzero(~np.isin(margins, known))
        if len(other):
            raise UserError(
                f"model.loss.scale: expected a factor for every strength, got {', '.join(loss.scale)} and found "
                f"{margins[other[0]]:g} ({part.where(int(other[0]))}; {len(other):,} pairs in all). Add it to the map."
            )


def _check_attributes(
    name: str, part: CachedSource, attributes: Sequence[str], loss: LossSettings, terminal: Terminal
) -> None:
    """Check that each attribute is known of some answers, and say of how many it is not."""
    for number, attribute in enumerate(attributes):
        values = part.sides[f"{ATTRIBUTE}{number}"]
        num_unknown = int(np.isnan(values).sum())
        if num_unknown == len(values):
            raise UserError(
                f"model.reward_head.attributes: no answer of {part.name} has '{attribute}'. Set "
                f"model.data.attribute_keys.{attribute} to its column, or field of completions, or take it out."
            )
        if num_unknown:
            share = f"{num_unknown:,} of {len(values):,} answers"
            terminal.line(f"{name}: {share} of {part.name} have no {attribute}; the loss leaves it out there")
        _check_range(part, values[~np.isnan(values)], attribute, loss, np.flatnonzero(~np.isnan(values)))


def _check_range(part: CachedSource, values: Any, what: str, loss: LossSettings, at: Ints | None = None) -> None:
    """Check that all values are known, and in the range of the loss; `at` has their places among all answers."""
    unknown = np.flatnonzero(~np.isfinite(values))
    if len(unknown):
        raise UserError(
            f"model.loss.kind={loss.kind} with a regression: {len(unknown):,} of {len(values):,} answers of "
            f"{part.name} have no score, the first in {_where(part, int(unknown[0]))}. Set model.data.score_key to a "
            "column of numbers; for rows that name the chosen response, to the two columns of both scores."
        )
    wrong = np.flatnonzero(((values < 0) | (values > 1)) & (loss.regression_error == "bce"))
    if len(wrong):
        place = int(wrong[0] if at is None else at[wrong[0]])
        raise UserError(
            f"model.loss.regression_error=bce: expected values from 0 to 1, got {what} {values[wrong[0]]:g} in "
            f"{_where(part, place)} ({len(wrong):,} in all). Scale the column, or take mse."
        )


def _where(part: CachedSource, side: int) -> str:
    return part.where(int(np.searchsorted(part.columns["first_side"], side, side="right")) - 1)

"""Whether a source has what the loss reads: margins, strengths, ties, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nemo_bt.config.loss import WITH_TIES, LossSettings, strength_map
from nemo_bt.config.model import Settings
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.store.cache import CachedSource
from nemo_bt.data.store.records import ATTRIBUTE
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal


def check_signal(name: str, parts: Sequence[CachedSource], settings: Settings, terminal: Terminal) -> None:
    """Check that the sources of a set can feed the loss of the run, and say what the loss makes little use of.

    Args:
        name: name of the set.

    Raises:
        UserError: they lack what the loss reads, or have values that the loss cannot take. Names the column that would
            feed it.
    """
    loss = settings.model.loss
    parts = [part for part in parts if len(part)]
    attributes = settings.model.reward_head.attributes
    if attributes:
        _check_attributes(name, parts, attributes, loss, terminal)
    for part in () if loss.custom_fn.name else parts:
        _check_margins(name, part, loss, terminal)
        if loss.kind in WITH_TIES and not (part.columns["preference"][:] == 0.5).any():
            terminal.line(f"{name}: {part.name} has no ties, for which model.loss.kind={loss.kind} is made")
        if not attributes and (loss.kind == "regression" or loss.regression_coefficient):
            _check_values(part, loss)


def _check_margins(name: str, part: CachedSource, loss: LossSettings, terminal: Terminal) -> None:
    margins = part.columns["margin"][:]
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
    name: str, parts: Sequence[CachedSource], attributes: Sequence[str], loss: LossSettings, terminal: Terminal
) -> None:
    """Check that each attribute is known of some answers of a set, and say of how many it is not."""
    for number, attribute in enumerate(attributes):
        column = f"{ATTRIBUTE}{number}"
        if parts and all(np.isnan(part.sides[column][:]).all() for part in parts):
            of = ", ".join(part.name for part in parts)
            raise UserError(
                f"model.reward_head.attributes: no answer of {of} has '{attribute}'. Set "
                f"model.data.attribute_keys.{attribute} to its column, or field of completions, or to the two columns "
                "of chosen and rejected; or take it out."
            )
        for part in parts:
            values = part.sides[column][:]
            num_unknown = int(np.isnan(values).sum())
            if num_unknown:
                share = f"{num_unknown:,} of {len(values):,} answers"
                terminal.line(f"{name}: {share} of {part.name} have no {attribute}; the loss leaves it out there")
            _check_range(part, values, attribute, loss)


def _check_values(part: CachedSource, loss: LossSettings) -> None:
    """Check that every answer has a score of its own; which of two is better, or a rank, is none."""
    values = part.sides["score"][:]
    form = FORMATS.get(part.format)
    has_scores = form is not None and (form.has_scores or isinstance(part.made_from["rows"]["score_key"], list))
    is_rank = bool(((values <= 0) & (values == np.rint(values))).all())  # stored as their negatives
    unknown = np.flatnonzero(~np.isfinite(values)) if has_scores and not is_rank else np.arange(len(values))
    if len(unknown):
        raise UserError(
            f"model.loss.kind={loss.kind} with a regression: {len(unknown):,} of {len(values):,} answers of "
            f"{part.name} have no score of their own, the first in {_where(part, int(unknown[0]))}. Set "
            "model.data.score_key to a column of numbers; for rows that name the chosen response, to the two columns "
            "of both scores."
        )
    _check_range(part, values, "score", loss)


def _check_range(part: CachedSource, values: Any, what: str, loss: LossSettings) -> None:
    wrong = np.flatnonzero(((values < 0) | (values > 1)) & (loss.regression_error == "bce"))
    if len(wrong):
        at = int(wrong[0])
        raise UserError(
            f"model.loss.regression_error=bce: expected values from 0 to 1, got {what} {values[at]:g} in "
            f"{_where(part, at)} ({len(wrong):,} in all). Scale the column, or take mse."
        )


def _where(part: CachedSource, side: int) -> str:
    return part.where(int(np.searchsorted(part.columns["first_side"], side, side="right")) - 1)

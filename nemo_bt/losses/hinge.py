"""Pairwise hinge: no loss once the chosen response is ahead by enough."""

from __future__ import annotations

from torch import Tensor

from nemo_bt.losses.comparisons import Comparisons


def hinge_loss(given: Comparisons, lead: float | None) -> Tensor:
    """Compute max(0, m - (chosen - rejected)) of each pair, in reward units.

    Source: Herbrich et al. 2000, Large margin rank boundaries for ordinal regression, section 4; Joachims 2002.

    Args:
        given: pairs.
        lead: m; None takes the margin of each pair.

    Returns:
        [P]. Equal rewards and m = 1 give 1.
    """
    wanted = given.margin_P if lead is None else lead
    return given.weight_P * (wanted - (given.chosen - given.rejected)).clamp(min=0)

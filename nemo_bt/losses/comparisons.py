"""What a loss is given: the comparisons of a stream with the rewards of their sides, and what the data says of them.

Shape suffixes: P = comparisons of one micro-batch on this rank, K = sides of the longest, A = attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparisons:
    """Pairs, or lists, with their rewards; float32 where nothing else is said.

    Args:
        reward_PK: [P, K]. Of a pair the chosen one first, of a list the best first; 0 where a list has fewer than K.
        is_there_PK: which sides there are, bool; None where all are, as in pairs.
        score_PK: what the data says of each side, higher is better; NaN where it says nothing.
        margin_P: strength of the preference.
        preference_P: probability that the first of a pair is better, 0.5 for a tie; None where all are certain.
        weight_P: factor on the loss of each.
        attribute_reward_PKA: rewards of each attribute; None without attributes.
        attribute_PKA: what the data says of them, NaN where nothing.
        tie: parameter of the losses with ties, a scalar, where it is learnt.
        tokens_PK: tokens of each side with its prompt, as float32; 0 where a list has fewer than K.
    """

    reward_PK: Tensor
    is_there_PK: Tensor | None
    score_PK: Tensor
    margin_P: Tensor
    preference_P: Tensor | None
    weight_P: Tensor
    attribute_reward_PKA: Tensor | None = None
    attribute_PKA: Tensor | None = None
    tie: Tensor | None = None
    tokens_PK: Tensor | None = None

    @property
    def chosen(self) -> Tensor:
        """Reward of the first side, [P]."""
        return self.reward_PK[:, 0]

    @property
    def rejected(self) -> Tensor:
        """Reward of the last side, [P]: the rejected one of a pair, the worst of a list."""
        if self.is_there_PK is None:
            return self.reward_PK[:, -1]
        last_P = self.is_there_PK.sum(1, keepdim=True) - 1
        return self.reward_PK.gather(1, last_P).squeeze(1)

    @property
    def better(self) -> Tensor:
        """Tell whether side i is better than side j, [P, i, j], bool.

        Scores decide where a comparison has any, and a side without one is better and worse than none; else the order.
        """
        place_K = torch.arange(self.reward_PK.shape[1], device=self.reward_PK.device)
        by_place_KK = place_K[:, None] < place_K
        if self.preference_P is not None:
            sign_P = torch.sign(self.preference_P - 0.5)[:, None, None]
            by_place_KK = torch.where(sign_P > 0, by_place_KK, by_place_KK.T & (sign_P < 0))
        score_PK = self.score_PK if self.preference_P is None else torch.full_like(self.score_PK, torch.nan)
        is_scored_P = score_PK.isfinite().any(1)[:, None, None]
        by_score_PKK = score_PK[:, :, None] > score_PK[:, None, :]  # no NaN is
        return torch.where(is_scored_P, by_score_PKK, by_place_KK) & self.both_there

    @property
    def both_there(self) -> Tensor:
        """Tell whether two sides are both there, [P, i, j], bool."""
        there_PK = torch.ones_like(self.reward_PK, dtype=torch.bool) if self.is_there_PK is None else self.is_there_PK
        return there_PK[:, :, None] & there_PK[:, None, :]


ComparisonLoss: TypeAlias = Callable[[Comparisons], Tensor]
"""Comparisons -> loss_P, [P], float32, nats. The step's loss is the sum over all comparisons over their number.

It is called as `nemo_bt.LossFn` is, once for each stream, and what holds there holds here: a stream may have no
comparison, the loss of one depends on that one alone, its weight is the function's to apply, and nothing is changed in
place.
"""

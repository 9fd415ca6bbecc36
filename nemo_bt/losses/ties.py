"""Pairs of which some are ties: Rao-Kupper and Davidson. A tie is a pair whose preference is 0.5.

Shape suffixes: P = pairs of one micro-batch on this rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_bt.losses.comparisons import Comparisons


def rao_kupper_loss(given: Comparisons, tie: float) -> Tensor:
    """Compute the negative log-likelihood, in nats, of wins and ties, of which there are more where rewards are close.

    p(first wins) = sigmoid(d - t)          d = first - second; t > 0 is the threshold, ln of Rao and Kupper's theta
    p(second wins) = sigmoid(-d - t)
    p(tie) = 1 - both = (e^2t - 1) p(first wins) p(second wins)

    Source: Rao and Kupper 1967, Ties in paired-comparison experiments, eq. 2.1 to 2.3.

    Args:
        given: pairs, ties among them.
        tie: t in reward units; the learnt one takes its place.

    Returns:
        [P], nats. A tie of equal rewards at t = ln 2 gives -ln(1/3) = 1.099.
    """
    t = given.reward_PK.new_tensor(tie) if given.tie is None else given.tie
    first_P, second_P = _log_wins(given, t)
    tie_P = first_P + second_P + 2 * t + torch.log(-torch.expm1(-2 * t))  # e^2t - 1, which may be large
    return -given.weight_P * _of_outcome(given, first_P, second_P, tie_P)


def _log_wins(given: Comparisons, t: Tensor) -> tuple[Tensor, Tensor]:
    difference_P = given.chosen - given.rejected
    return F.logsigmoid(difference_P - t), F.logsigmoid(-difference_P - t)


def davidson_loss(given: Comparisons, tie: float) -> Tensor:
    """Compute the negative log-likelihood, in nats, of wins and ties, whose odds are v times the geometric mean.

    p(first wins) = e^(d/2) / Z             d = first - second; Z = e^(d/2) + e^(-d/2) + v
    p(second wins) = e^(-d/2) / Z
    p(tie) = v / Z

    Source: Davidson 1970, On extending the Bradley-Terry model to accommodate ties, eq. 2.4 and 2.5.

    Args:
        given: pairs, ties among them.
        tie: v; the learnt one takes its place.

    Returns:
        [P], nats. A tie of equal rewards at v = 1 gives -ln(1/3) = 1.099.
    """
    v = given.reward_PK.new_tensor(tie) if given.tie is None else given.tie
    half_P = (given.chosen - given.rejected) / 2
    log_v_P = torch.log(v).expand_as(half_P)
    log_z_P = torch.stack([half_P, -half_P, log_v_P]).logsumexp(0)
    return -given.weight_P * _of_outcome(given, half_P - log_z_P, -half_P - log_z_P, log_v_P - log_z_P)


def _of_outcome(given: Comparisons, first_P: Tensor, second_P: Tensor, tie_P: Tensor) -> Tensor:
    """Take the log-likelihood of what happened: preference 1 is a win of the first, 0 of the second, 0.5 a tie."""
    if given.preference_P is None:
        return first_P
    won_P = torch.where(given.preference_P > 0.5, first_P, second_P)
    return torch.where(given.preference_P == 0.5, tie_P, won_P)

"""Plackett-Luce: a list of K ranked answers, as a choice of the best, then of the best of the rest, and so on."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_bt.losses.comparisons import Comparisons


def plackett_luce_loss(given: Comparisons) -> Tensor:
    """Compute the negative log-likelihood, in nats, of each list's ranking.

    loss = sum over ranks of the mean, over the answers i of that rank, of -log(e^r_i / (e^r_i + sum_j e^r_j))

    where j runs over the answers that are worse. Answers of one rank are not compared with each other. Without ties it
    is the Plackett-Luce likelihood, and for two answers the Bradley-Terry loss; with one good rank and one bad it is
    the mean, over the good ones, of a softmax against all bad ones.

    Source: Plackett 1975; Luce 1959; as a loss of reward models Ouyang et al. 2022 (arXiv 2203.02155), and Zhu et al.
    2023 (arXiv 2301.11270) eq. 6. Ties: the mean within a rank is this project's.

    Args:
        given: lists; pairs are lists of two.

    Returns:
        [P], nats. K answers of equal rewards, all ranked, give ln K!; 4 give 3.178.
    """
    reward_PK = given.reward_PK
    better_PKK = given.better
    itself_KK = torch.eye(reward_PK.shape[1], dtype=torch.bool, device=reward_PK.device)
    against_PKK = better_PKK | itself_KK
    among_PKK = reward_PK[:, None, :].expand_as(against_PKK).masked_fill(~against_PKK, -torch.inf)
    chosen_PK = among_PKK.logsumexp(2) - reward_PK
    is_tied_PKK = given.both_there & ~better_PKK & ~better_PKK.transpose(1, 2)
    num_tied_PK = is_tied_PKK.sum(2).clamp(min=1)
    return given.weight_P * (chosen_PK / num_tied_PK).sum(1)

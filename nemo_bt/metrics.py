"""Sums over pairs, and the means they become. Sums travel; a mean is taken once, where it is shown.

Shape suffixes: P = pairs, K = their sides, A = attributes, S = sources of data, B = bins of the margin, N = len(SUMS),
M = N + B + 3A, and 3 more where the loss takes lists. Adding the sums of micro-batches, ranks or steps is always right;
averaging their means is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

SUMS = (
    *("pairs", "loss", "accuracy", "ties", "reward_chosen", "reward_rejected", "margin", "reward_squares", "ordered"),
    "tie",
)
"""What the first positions of a sums vector count; `margin` is reward_chosen - reward_rejected, and `reward_squares`
reward_chosen^2 + reward_rejected^2. `ordered` counts those of which the data says what is better: all pairs but ties.
Where the loss takes lists, `pairs` counts lists; chosen is the best of one and rejected the worst, and a list adds to
`accuracy` and `ties` the share of its ordered pairs. `tie` adds up the learnt parameter of ties, 0 without. Behind them
stands, for each bin, how many have a margin in it."""
_POSITIVE = tuple(0.01 * 1.3**power for power in range(36))  # up to 97
MARGIN_LIMITS = (*(-limit for limit in reversed(_POSITIVE)), 0.0, *_POSITIVE)
"""Limits between bins of the margin, narrow around 0, where a run starts, and wide far from it. A limit belongs to the
bin above it; the first and the last bin are open."""
NUM_SUMS = len(SUMS) + len(MARGIN_LIMITS) + 1
"""Numbers of a sums vector without attributes."""
ATTRIBUTE_SUMS = ("known", "error", "reward")
"""What stands behind the bins for each attribute in turn: how many answers have a known value, and over these the
errors and the rewards of the attribute. An answer counts once for each comparison that it is in."""

ANSWER_SUMS = ("answers", "rewards", "squares")
"""What stands last where the loss takes lists: how many answers they have, their rewards and the squares of these."""


def num_sums(num_attributes: int, has_lists: bool = False) -> int:
    """Count the numbers of a sums vector, M."""
    return NUM_SUMS + num_attributes * len(ATTRIBUTE_SUMS) + has_lists * len(ANSWER_SUMS)


def pair_sums(
    loss_P: Tensor, chosen_reward_P: Tensor, rejected_reward_P: Tensor, source_P: Tensor, num_sources: int
) -> Tensor:
    """Add up the pairs of one micro-batch by source, in the order of `SUMS`.

    Args:
        loss_P: [P], nats.
        source_P: number of each pair's source, [P], int64, below `num_sources`.

    Returns:
        Sums, [S, M], float64, detached. A pair counts as right only if chosen > rejected; equal rewards are ties.
        Three pairs of which one is right and one a tie give pairs 3, accuracy 1, ties 1.
    """
    chosen_P = chosen_reward_P.detach().double()
    rejected_P = rejected_reward_P.detach().double()
    margin_P = chosen_P - rejected_P
    columns = (
        torch.ones_like(chosen_P),
        loss_P.detach().double(),
        (chosen_P > rejected_P).double(),
        (chosen_P == rejected_P).double(),
        chosen_P,
        rejected_P,
        margin_P,
        chosen_P**2 + rejected_P**2,
        torch.ones_like(chosen_P),
        torch.zeros_like(chosen_P),
    )
    sums_SM = torch.zeros(num_sources, NUM_SUMS, dtype=torch.float64, device=chosen_P.device)
    sums_SM[:, : len(SUMS)].index_add_(0, source_P, torch.stack(columns, dim=1))
    bin_P = torch.bucketize(margin_P, _limits(chosen_P.device), right=True)
    sums_SM.view(-1).index_add_(0, source_P * NUM_SUMS + len(SUMS) + bin_P, torch.ones_like(margin_P))
    return sums_SM


def with_order(sums_SM: Tensor, reward_PK: Tensor, better_PKK: Tensor, source_P: Tensor) -> Tensor:
    """Count what is right by an order of one's own, in the place of the first side before the second.

    Args:
        sums_SM: what `pair_sums` gives.
        reward_PK: rewards of the sides of pairs or lists, [P, K].
        better_PKK: whether side i is better than side j, [P, i, j], bool; a tie is better in neither direction.
        source_P: number of the source of each, [P].

    Returns:
        The sums with `accuracy`, `ties` and `ordered` anew. A list of three of which two pairs of three are in order
        adds 2/3.
    """
    reward_PK = reward_PK.detach().double()
    difference_PKK = reward_PK[:, :, None] - reward_PK[:, None, :]
    num_P = better_PKK.sum((1, 2))
    each = num_P.clamp(min=1)
    right_P = ((difference_PKK > 0) & better_PKK).sum((1, 2)) / each
    ties_P = ((difference_PKK == 0) & better_PKK).sum((1, 2)) / each
    columns = {"accuracy": right_P, "ties": ties_P, "ordered": (num_P > 0).double()}
    for name, values_P in columns.items():
        column_S = torch.zeros(len(sums_SM), dtype=torch.float64, device=sums_SM.device)
        sums_SM[:, SUMS.index(name)] = column_S.index_add(0, source_P, values_P.double())
    return sums_SM


def attribute_sums(
    reward_PKA: Tensor, value_PKA: Tensor, error_PKA: Tensor, source_P: Tensor, num_sources: int
) -> Tensor:
    """Add up what is known of attributes in one micro-batch by source, in the order of `ATTRIBUTE_SUMS`.

    Args:
        reward_PKA: rewards of the attributes, [P, K, A].
        value_PKA: what the data says of them; NaN where nothing, or where there is no such side.
        error_PKA: error of each reward against its value.
        source_P: number of the source of each, [P].

    Returns:
        Sums, [S, 3A], float64, detached: known, error and reward of the first attribute, then of the next. Rewards 1
        and 3 for values 0 and NaN give known 1, error 1 (mse), reward 1.
    """
    is_known_PKA = value_PKA.isfinite()
    columns_3PKA = [torch.ones_like(reward_PKA), error_PKA, reward_PKA]
    known = [torch.where(is_known_PKA, one.detach().double(), 0.0).sum(1) for one in columns_3PKA]
    of_each_PM = torch.stack(known, dim=2).flatten(1)
    sums_SM = torch.zeros(num_sources, of_each_PM.shape[1], dtype=torch.float64, device=of_each_PM.device)
    return sums_SM.index_add_(0, source_P, of_each_PM)


def answer_sums(reward_PK: Tensor, is_there_PK: Tensor | None, source_P: Tensor, num_sources: int) -> Tensor:
    """Add up all answers of the lists of one micro-batch by source, [S, 3], in the order of `ANSWER_SUMS`."""
    reward_PK = reward_PK.detach().double()
    is_there_PK = torch.ones_like(reward_PK, dtype=torch.bool) if is_there_PK is None else is_there_PK
    columns = (torch.ones_like(reward_PK), reward_PK, reward_PK**2)
    of_each_P3 = torch.stack([torch.where(is_there_PK, one, 0.0).sum(1) for one in columns], dim=1)
    return of_each_P3.new_zeros(num_sources, 3).index_add_(0, source_P, of_each_P3)


@lru_cache
def _limits(device: torch.device) -> Tensor:
    """Keep MARGIN_LIMITS on a device, so that they are not sent again with every stream."""
    return torch.tensor(MARGIN_LIMITS, dtype=torch.float64, device=device)


def means(sums_M: Sequence[float]) -> dict[str, float]:
    """Take per-pair means by name (`ties` stays a count), and `reward_std`, the standard deviation of all rewards.

    There is no `accuracy` where the data orders nothing, and no `tie` where none is learnt.

    Args:
        sums_M: sums in the order of `SUMS`, already added up over everything they should cover.

    Raises:
        ValueError: the sums cover no pair, so there is nothing to average.
    """
    num_pairs = sums_M[0]
    if num_pairs < 1:
        raise ValueError(f"a mean needs at least one pair, got sums over {num_pairs} pairs")
    named = dict(zip(SUMS[1:], sums_M[1 : len(SUMS)], strict=True))
    num_ordered, tie = named.pop("ordered"), named.pop("tie")
    values = {name: total if name == "ties" else total / num_pairs for name, total in named.items()}
    values.pop("accuracy")
    if num_ordered:  # else there are single answers or ties alone: nothing is right or wrong
        values["accuracy"] = named["accuracy"] / num_ordered
    mean = (values["reward_chosen"] + values["reward_rejected"]) / 2
    mean_square = values.pop("reward_squares") / 2
    values |= {"tie": tie / num_pairs} if tie else {}
    return values | {"reward_std": _deviation(mean, mean_square)}


def _deviation(mean: float, mean_square: float) -> float:
    variance = mean_square - mean**2
    return math.sqrt(0.0 if variance < 0 else variance)  # NaN stays NaN


def answer_means(sums_M: Sequence[float], num_attributes: int) -> dict[str, float]:
    """Give the number of all `answers` of lists, their `reward_mean` and `reward_std`; nothing where there are none."""
    answers, rewards, squares = sums_M[num_sums(num_attributes) :] or (0.0, 0.0, 0.0)
    if not answers:
        return {}
    mean = rewards / answers
    return {"answers": answers, "reward_mean": mean, "reward_std": _deviation(mean, squares / answers)}


def margin_counts(sums_M: Sequence[float]) -> list[int]:
    """Count the pairs in each bin of the margin; there is one bin more than MARGIN_LIMITS."""
    return [round(count) for count in sums_M[len(SUMS) : NUM_SUMS]]


def attribute_means(sums_M: Sequence[float], attributes: Sequence[str]) -> dict[str, float]:
    """Take the mean error and the mean reward of each attribute over the answers whose value is known.

    Args:
        sums_M: sums, already added up over everything they should cover.
        attributes: names, in the order of the head's rows.

    Returns:
        `attribute/<name>/known`, the number of these answers, and `attribute/<name>/error` and `/reward`, which are
        left out where there is none.
    """
    record: dict[str, float] = {}
    for number, name in enumerate(attributes):
        known, error, reward = sums_M[num_sums(number) : num_sums(number + 1)]
        record[f"attribute/{name}/known"] = known
        if known:
            record |= {f"attribute/{name}/error": error / known, f"attribute/{name}/reward": reward / known}
    return record


def means_by_source(
    sums_SM: Sequence[Sequence[float]], names: Sequence[str], attributes: Sequence[str] = ()
) -> dict[str, float]:
    """Give loss, accuracy and number of pairs of each source that has pairs, as `source/<name>/<metric>`.

    With attributes, what `attribute_means` gives of each source stands beside them. Where there is a single source,
    nothing is given: the means of the whole say the same.
    """
    if len(names) == 1:
        return {}
    by_name = {name: sums_M for name, sums_M in zip(names, sums_SM, strict=True) if sums_M[0] >= 1}
    record: dict[str, float] = {}
    for name, sums_M in by_name.items():
        values = means(sums_M) | {"pairs": sums_M[0]}
        shown: dict[str, float] = {key: values[key] for key in ("loss", "accuracy", "pairs") if key in values}
        shown |= attribute_means(sums_M, attributes)
        record |= {f"source/{name}/{key}": value for key, value in shown.items()}
    return record

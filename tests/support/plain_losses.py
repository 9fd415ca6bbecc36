"""Plain code computes the losses from their published formulas, one comparison at a time and in double precision."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class One:
    """One comparison holds the rewards of its answers, and what is known about which is better."""

    rewards: list[Tensor]  # 0-dim; of a pair the chosen first, of a list the best first
    scores: list[float] | None = None
    preference: float = 1.0  # the probability that the first of a pair is better
    margin: float = 0.0
    weight: float = 1.0
    attribute_rewards: list[Tensor] | None = None  # each [A]
    attributes: list[list[float | None]] | None = None  # None where unknown
    tokens: list[int] | None = None  # of each answer, with its prompt


def bradley_terry(one: One, label_smoothing: float = 0.0) -> Tensor:
    """Bradley and Terry's cross-entropy takes the preference, smoothed, as its target."""
    d = difference(one)
    error = label_smoothing + (1 - 2 * label_smoothing) * (1 - one.preference)
    return one.weight * ((1 - error) * minus_log_sigmoid(d) + error * minus_log_sigmoid(-d))


def scaled(one: One, factors: dict[float, float]) -> Tensor:
    """The margin chooses the factor of Bradley and Terry's loss."""
    return one.weight * factors[one.margin] * minus_log_sigmoid(difference(one))


def length_penalised(one: One, factor: float, scale: float) -> Tensor:
    """What both outcomes' probabilities differ by is multiplied by the squashed difference of lengths."""
    assert one.tokens
    wins, loses = (torch.exp(-minus_log_sigmoid(sign * difference(one))) for sign in (1, -1))
    squashed = torch.tanh(torch.tensor((one.tokens[0] - one.tokens[1]) / scale, dtype=torch.float64))
    return one.weight * (minus_log_sigmoid(difference(one)) + factor * (wins - loses) * squashed)


def hinge(one: One, lead: float) -> Tensor:
    """The loss is what the chosen answer lacks of its lead."""
    return one.weight * torch.clamp(lead - difference(one), min=0.0)


def rao_kupper(one: One, theta: float) -> Tensor:
    """Rao and Kupper (1967) give ties the probability that a threshold takes from both wins."""
    first, second = worths(one)
    probabilities = {
        1.0: first / (first + theta * second),
        0.0: second / (theta * first + second),
        0.5: (theta**2 - 1) * first * second / ((first + theta * second) * (theta * first + second)),
    }
    return one.weight * -torch.log(probabilities[one.preference])


def davidson(one: One, v: float) -> Tensor:
    """Davidson (1970) makes a tie as likely as the geometric mean of both worths, times v."""
    first, second = worths(one)
    tie = v * torch.sqrt(first * second)
    total = first + second + tie
    probabilities = {1.0: first / total, 0.0: second / total, 0.5: tie / total}
    return one.weight * -torch.log(probabilities[one.preference])


def plackett_luce(one: One) -> Tensor:
    """Each answer competes with all answers of worse ranks, and answers of one rank are averaged."""
    worth = worths(one)
    scores = [-float(i) for i in range(len(worth))] if one.scores is None else one.scores
    loss = torch.zeros((), dtype=torch.float64)
    for score in sorted(set(scores), reverse=True):
        rank = [w for w, s in zip(worth, scores, strict=True) if s == score]
        worse = [w for w, s in zip(worth, scores, strict=True) if s < score]
        for w in rank:
            total = w
            for other in worse:
                total = total + other
            loss = loss - torch.log(w / total) / len(rank)
    return one.weight * loss


def regression(one: One, error: Literal["mse", "bce"]) -> Tensor:
    """The mean error is over all known values of all answers together."""
    errors = []
    for reward, value in predictions(one):
        if error == "mse":
            errors.append((reward - value) ** 2)
        else:
            errors.append(value * minus_log_sigmoid(reward) + (1 - value) * minus_log_sigmoid(-reward))
    return one.weight * torch.stack(errors).mean()


def predictions(one: One) -> list[tuple[Tensor, float]]:
    """Each known value comes with the reward that should equal it."""
    if one.attributes is None:
        assert one.scores is not None
        return [(reward.double(), score) for reward, score in zip(one.rewards, one.scores, strict=True)]
    assert one.attribute_rewards is not None
    pairs = []
    for rewards, values in zip(one.attribute_rewards, one.attributes, strict=True):
        for reward, value in zip(rewards, values, strict=True):
            if value is not None:
                pairs.append((reward.double(), value))
    return pairs


def difference(one: One) -> Tensor:
    """The first reward of a pair is ahead of the second by this."""
    first, second = one.rewards
    return first.double() - second.double()


def worths(one: One) -> list[Tensor]:
    """The worth of an answer is the exponential of its reward."""
    return [torch.exp(reward.double()) for reward in one.rewards]


def minus_log_sigmoid(x: Tensor) -> Tensor:
    """The loss of a logit x is ln(1 + exp(-x))."""
    return torch.log(1 + torch.exp(-x))

"""Losses of every signal against arithmetic by hand, and against plain loops that were written from their formulas."""

import math
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nemo_bt.config.loss import LossSettings
from nemo_bt.errors import UserError
from nemo_bt.losses.choose import loss_function
from nemo_bt.losses.comparisons import Comparisons
from nemo_bt.losses.contract import check_loss_function

NAN = math.nan


def given(rewards: list[list[float]], scores: list[list[float]] | None = None, **more: Any) -> Comparisons:
    """Comparisons of these rewards; None among them is a side that is not there."""
    most = max(map(len, rewards))
    reward_PK = torch.tensor([[*one, *[0.0] * (most - len(one))] for one in rewards], requires_grad=True)
    is_there_PK = torch.tensor([[k < len(one) for k in range(most)] for one in rewards])
    scores = scores or [[NAN] * most for _ in rewards]
    score_PK = torch.tensor([[*one, *[NAN] * (most - len(one))] for one in scores])
    names = {"margin_P": [0.0] * len(rewards), "weight_P": [1.0] * len(rewards)} | more
    values = {name: torch.tensor(value) for name, value in names.items()}
    return Comparisons(reward_PK, None if is_there_PK.all() else is_there_PK, score_PK,
                       **{"preference_P": None} | values)  # fmt: skip


def losses(comparisons: Comparisons, **settings: Any) -> list[float]:
    return loss_function(LossSettings(**settings))(comparisons).tolist()


def test_a_list_costs_the_likelihood_of_its_ranking() -> None:
    """Chosen from 2, 0, 1 in the order 2, 1, 0, whose scores say so."""
    first = -math.log(math.e**2 / (math.e**2 + math.e + 1))
    second = -math.log(math.e / (math.e + 1))
    found = losses(given([[2.0, 0.0, 1.0]], [[3.0, 1.0, 2.0]]), kind="plackett_luce")
    assert found == [pytest.approx(first + second)]
    assert losses(given([[1.0] * 4], [[4.0, 3.0, 2.0, 1.0]]), kind="plackett_luce") == [pytest.approx(math.log(24))]


def test_preferences_that_go_with_length_cost_more() -> None:
    """0.5 tanh 1 for odds of 3 and a difference of one scale; the pair turned round has the same."""
    rewards, tokens = [[math.log(3), 0.0], [0.0, math.log(3)], [1.0, 1.0]], [[250.0, 150.0], [150.0, 250.0], [9.0, 1.0]]
    plain = losses(given(rewards))
    found = losses(given(rewards, tokens_PK=tokens, weight_P=[1.0, 2.0, 1.0]), length_penalty=0.4)
    more = 0.4 * 0.5 * math.tanh(1)
    assert found == pytest.approx([plain[0] + more, 2 * (plain[1] + more), plain[2]])
    told = losses(given(rewards, tokens_PK=tokens), length_penalty=0.4, length_scale_tokens=50)
    assert told[0] == pytest.approx(plain[0] + 0.2 * math.tanh(2))


def test_the_penalty_on_length_is_bounded() -> None:
    far = given([[1e4, -1e4], [-1e4, 1e4]], tokens_PK=[[1e6, 0.0], [0.0, 1e6]])
    loss_P = loss_function(LossSettings(length_penalty=1.0))(far) - loss_function(LossSettings())(far)
    assert loss_P.tolist() == [1.0, 1.0]
    loss_P.sum().backward()
    assert far.reward_PK.grad is not None
    assert far.reward_PK.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_likelihoods_of_all_rankings_sum_to_1() -> None:
    rewards = [0.3, -1.2, 2.0, 0.0]
    total = sum(
        math.exp(-losses(given([[rewards[i] for i in order]], [[4.0, 3.0, 2.0, 1.0]]), kind="plackett_luce")[0])
        for order in permutations(range(4))
    )
    assert total == pytest.approx(1)


def test_lists_of_two_are_pairs_and_shorter_lists_stand_beside_longer_ones() -> None:
    comparisons = given([[1.5, -0.5, 0.7], [1.5, -0.5]], [[3.0, 2.0, 1.0], [2.0, 1.0]])
    long, pair = losses(comparisons, kind="plackett_luce")
    assert pair == pytest.approx(math.log(1 + math.exp(-2.0)))
    assert long == pytest.approx(losses(given([[1.5, -0.5, 0.7]], [[3.0, 2.0, 1.0]]), kind="plackett_luce")[0])
    given_pair = given([[1.5, -0.5]])  # the rows named the chosen one, and have no scores
    assert losses(given_pair, kind="plackett_luce") == [pytest.approx(pair)]
    loss_P = loss_function(LossSettings(kind="plackett_luce"))(comparisons)
    (gradient_PK,) = torch.autograd.grad(loss_P.sum(), comparisons.reward_PK)
    assert gradient_PK[1, 2] == 0
    assert gradient_PK.isfinite().all()


def test_answers_of_one_rank_are_each_compared_with_the_worse_ones_alone() -> None:
    """Two good ones against one bad: the mean of two softmaxes; the good ones are not compared."""
    rewards, scores = [1.0, 2.0, 0.5], [1.0, 1.0, 0.0]
    each = [-math.log(math.exp(r) / (math.exp(r) + math.exp(0.5))) for r in rewards[:2]]
    assert losses(given([rewards], [scores]), kind="plackett_luce") == [pytest.approx(sum(each) / 2)]


@pytest.mark.parametrize("kind", ["rao_kupper", "davidson"])
def test_wins_losses_and_ties_sum_to_1(kind: str) -> None:
    outcomes = given([[0.8, -0.3]] * 3, preference_P=[1.0, 0.0, 0.5])
    found = losses(outcomes, kind=kind, tie=0.6)
    assert sum(math.exp(-loss) for loss in found) == pytest.approx(1)
    assert found[0] < found[1]
    certain = losses(given([[0.8, -0.3]]), kind=kind, tie=0.6)
    assert certain == [pytest.approx(found[0])]


def test_ties_by_hand() -> None:
    """Equal rewards: at theta = 2, and at v = 1, all three outcomes have one chance in three."""
    outcomes = given([[0.4, 0.4]] * 3, preference_P=[1.0, 0.0, 0.5])
    for kind, tie in (("rao_kupper", math.log(2)), ("davidson", 1.0)):
        assert losses(outcomes, kind=kind, tie=tie) == pytest.approx([math.log(3)] * 3)
    d, theta, v = 1.1, math.exp(0.6), 0.6
    won = math.exp(d) / (math.exp(d) + theta)
    assert losses(given([[1.1, 0.0]]), kind="rao_kupper", tie=0.6) == [pytest.approx(-math.log(won))]
    tied = v / (math.exp(d / 2) + math.exp(-d / 2) + v)
    found = losses(given([[1.1, 0.0]], preference_P=[0.5]), kind="davidson", tie=v)
    assert found == [pytest.approx(-math.log(tied))]
    wide = losses(given([[1.0, 0.0]], preference_P=[0.5]), kind="rao_kupper", tie=50.0)
    assert wide == [pytest.approx(0.0, abs=1e-6)]  # at theta = e^50 nearly every pair is a tie
    far = losses(given([[1e4, -1e4], [-1e4, 1e4]], preference_P=[0.5, 1.0]), kind="davidson")
    assert all(map(math.isfinite, far))


def test_a_soft_label_is_a_probability_of_its_own() -> None:
    right, wrong = math.log(1 + math.exp(-2.0)), math.log(1 + math.exp(2.0))
    soft = given([[1.5, -0.5]] * 4, preference_P=[1.0, 0.8, 0.5, 0.0])
    expected = [right, 0.8 * right + 0.2 * wrong, (right + wrong) / 2, wrong]
    assert losses(soft) == pytest.approx(expected)
    assert losses(soft, label_smoothing=0.1)[:1] == pytest.approx([0.9 * right + 0.1 * wrong])
    assert losses(soft, label_smoothing=0.1)[3:] == pytest.approx([0.9 * wrong + 0.1 * right])
    smoothed = given([[1.5, -0.5]], preference_P=[0.9])
    assert losses(smoothed) == pytest.approx(losses(given([[1.5, -0.5]]), label_smoothing=0.1))


def test_strengths_have_factors_of_their_own() -> None:
    pairs = given([[1.0, 0.0]] * 4, margin_P=[1.0, 2.0, 3.0, 4.0])
    found = losses(pairs, scale={1: 1, 2: 3, 3: 10})
    assert found[:3] == pytest.approx([factor * math.log(1 + math.exp(-1.0)) for factor in (1, 3, 10)])
    assert math.isnan(found[3])  # no run gets so far: the data is checked before
    assert losses(pairs, scale=True) == pytest.approx([s * math.log(1 + math.exp(-1.0)) for s in (1, 2, 3, 4)])


def test_a_hinge_is_flat_once_the_lead_is_there() -> None:
    pairs = given([[0.5, 0.0], [2.0, 0.0], [0.0, 1.0]], margin_P=[0.2, 3.0, 0.0], weight_P=[2.0, 1.0, 1.0])
    assert losses(pairs, kind="hinge") == pytest.approx([2 * 0.5, 0.0, 2.0])
    assert losses(pairs, kind="hinge", hinge_margin=0.25) == pytest.approx([0.0, 0.0, 1.25])
    assert losses(pairs, kind="hinge", margin=True) == pytest.approx([0.0, 1.0, 1.0])


def test_regression_is_the_mean_over_known_values() -> None:
    answers = given([[1.0, 2.0, 0.0], [3.0]], [[0.0, NAN, 2.0], [1.0]])
    assert losses(answers, kind="regression") == pytest.approx([(1 + 4) / 2, 4.0])
    shares = given([[0.0, 2.0]], [[0.25, 1.0]])
    by_torch = F.binary_cross_entropy_with_logits(torch.tensor([0.0, 2.0]), torch.tensor([0.25, 1.0]))
    assert losses(shares, kind="regression", regression_error="bce") == [pytest.approx(by_torch.item())]


def test_regression_takes_attributes_where_there_are_any() -> None:
    reward_PKA = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]], requires_grad=True)
    value_PKA = torch.tensor([[[1.0, 0.0], [NAN, 3.0]]])
    of_pairs = given([[9.0, 9.0]], [[0.0, 0.0]])
    answers = Comparisons(of_pairs.reward_PK, None, of_pairs.score_PK, of_pairs.margin_P, None, of_pairs.weight_P,
                          reward_PKA, value_PKA)  # fmt: skip
    assert losses(answers, kind="regression") == [pytest.approx((0 + 4 + 9) / 3)]


def test_a_regression_may_stand_beside_a_ranking() -> None:
    pairs = given([[1.0, 0.0]], [[2.0, 0.5]])
    expected = math.log(1 + math.exp(-1.0)) + 0.1 * (1 + 0.25) / 2
    assert losses(pairs, regression_coefficient=0.1) == [pytest.approx(expected)]


@pytest.mark.parametrize("kind", ["bradley_terry", "hinge", "rao_kupper", "davidson", "plackett_luce", "regression"])
def test_weights_are_factors_and_nothing_is_fine_too(kind: str) -> None:
    pairs = given([[0.3, 0.1]] * 2, [[1.0, 0.0]] * 2, weight_P=[1.0, 2.5])
    plain, weighted = losses(pairs, kind=kind)
    assert weighted == pytest.approx(2.5 * plain)
    none = Comparisons(torch.zeros(0, 2), None, torch.zeros(0, 2), torch.zeros(0), None, torch.zeros(0))
    assert losses(none, kind=kind) == []


def test_a_loss_of_ones_own_may_take_lists() -> None:
    def spread(comparisons: Comparisons) -> torch.Tensor:
        return comparisons.rejected - comparisons.chosen

    check_loss_function(spread)
    lists = given([[3.0, 2.0, 1.0], [5.0, 1.0]], [[3.0, 2.0, 1.0], [1.0, 0.0]])
    assert loss_function(LossSettings(kind="plackett_luce"), spread)(lists).tolist() == [-2.0, -4.0]


@pytest.mark.parametrize(
    ("takes", "num_attributes", "has_soft_labels"), [("lists", 0, False), ("answers", 3, False), ("pairs", 0, True)]
)
def test_a_loss_of_ones_own_is_tried_on_what_it_will_get(
    takes: str, num_attributes: int, has_soft_labels: bool
) -> None:
    seen = []

    def loss(comparisons: Comparisons) -> torch.Tensor:
        seen.append(comparisons)
        return comparisons.reward_PK.sum(1)

    check_loss_function(loss, takes, num_attributes, has_soft_labels)
    first, none = seen
    assert (first.reward_PK.shape, none.reward_PK.shape[0]) == ((2, 2 if takes == "pairs" else 3), 0)
    assert (first.is_there_PK is not None) == (takes != "pairs")
    assert (first.preference_P is not None) == has_soft_labels
    assert first.attribute_PKA is None if not num_attributes else first.attribute_PKA.shape[2] == 3
    if takes != "pairs" or has_soft_labels:
        with pytest.raises(UserError, match="one of four arguments does not get"):
            check_loss_function(lambda c, r, m, w: c - r, takes, num_attributes, has_soft_labels)


def test_which_side_is_better() -> None:
    lists = given([[0.0] * 3, [0.0] * 2], [[1.0, 3.0, 3.0], [NAN, NAN]])
    better = [[(i, j) for i in range(3) for j in range(3) if one[i, j]] for one in lists.better]
    assert better == [[(1, 0), (2, 0)], [(0, 1)]]
    (partly,) = given([[0.0] * 3], [[1.0, NAN, 0.0]]).better
    assert partly.nonzero().tolist() == [[0, 2]]  # nothing is known of the one without a score
    pairs = given([[0.0, 0.0]] * 3, preference_P=[1.0, 0.3, 0.5])
    assert [one.nonzero().tolist() for one in pairs.better] == [[[0, 1]], [[1, 0]], []]

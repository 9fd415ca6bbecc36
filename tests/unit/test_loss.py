"""The loss against arithmetic written out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from nemo_bt.config.model import LossSettings
from nemo_bt.loss import bradley_terry_loss

PLAIN = LossSettings()


def loss(chosen: float, rejected: float, strength: float = 0.0, weight: float = 1.0, **terms: float) -> float:
    settings = replace(PLAIN, **terms)
    return bradley_terry_loss(*(torch.tensor([x]) for x in (chosen, rejected, strength, weight)), settings).item()


def test_equal_rewards_cost_ln_2() -> None:
    assert loss(0.7, 0.7) == pytest.approx(math.log(2))


def test_loss_is_negative_log_sigmoid_of_the_difference() -> None:
    assert loss(1.5, -0.5) == pytest.approx(math.log(1 + math.exp(-2.0)))


def test_margin_is_subtracted_only_when_asked_for() -> None:
    assert loss(1.5, -0.5, strength=0.5) == pytest.approx(math.log(1 + math.exp(-2.0)))
    assert loss(1.5, -0.5, strength=0.5, margin=True) == pytest.approx(math.log(1 + math.exp(-1.5)))


def test_scale_multiplies_by_the_strength() -> None:
    assert loss(1.5, -0.5, strength=0.25, scale=True) == pytest.approx(0.25 * math.log(1 + math.exp(-2.0)))


def test_label_smoothing_mixes_both_directions() -> None:
    expected = 0.9 * math.log(1 + math.exp(-2.0)) + 0.1 * math.log(1 + math.exp(2.0))
    assert loss(1.5, -0.5, label_smoothing=0.1) == pytest.approx(expected)


def test_centering_adds_the_squared_sum() -> None:
    expected = math.log(1 + math.exp(-2.0)) + 0.01 * (1.5 - 0.5) ** 2
    assert loss(1.5, -0.5, center_rewards_coefficient=0.01) == pytest.approx(expected)


def test_a_weight_multiplies_every_term() -> None:
    assert loss(1.5, -0.5, weight=0.5, center_rewards_coefficient=0.01) == pytest.approx(
        0.5 * (math.log(1 + math.exp(-2.0)) + 0.01)
    )


def test_gradient_is_minus_the_probability_of_being_wrong() -> None:
    chosen = torch.tensor([1.5], requires_grad=True)
    bradley_terry_loss(chosen, torch.tensor([-0.5]), torch.zeros(1), torch.ones(1), PLAIN).sum().backward()
    assert chosen.grad.item() == pytest.approx(-1 / (1 + math.exp(2.0)))


def test_large_differences_stay_finite() -> None:
    assert loss(-1e4, 1e4) == pytest.approx(2e4)
    assert loss(1e4, -1e4) == 0.0

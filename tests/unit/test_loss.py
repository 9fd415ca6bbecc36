"""The loss against arithmetic written out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from nemo_bt.config.equations import check_equations
from nemo_bt.config.load import load_settings
from nemo_bt.config.loss import CustomFunction, LossSettings
from nemo_bt.errors import UserError
from nemo_bt.loss import LossFn, bradley_terry_loss
from nemo_bt.losses.choose import loss_function
from nemo_bt.losses.contract import check_loss_function

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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda c, r, m, w: c.sub_(r), r"expected its arguments left as they are, got one changed in place"),
        (lambda c, r, m, w: (c - r) / w.mul_(2), r"expected its arguments left as they are"),
        (lambda c, r, m, w: (c - r) / c.max(), r"with 0 pairs: .*Expected fn\(.*, also without a pair"),
        (lambda c, r, m, w: c - r + 1 / len(w), r"with 0 pairs: division by zero\. Expected fn\("),
        (lambda c, r, m, w: c - r if len(c) else torch.zeros(0), r"got one without a gradient"),
        (
            lambda c, r, m, w: c - r if len(c) else torch.zeros(1),
            r"each of 0 pairs, \(0,\) of torch.float32, got \(1,\)",
        ),
        (lambda c, r: c - r, r"with 2 pairs: .*takes 2 positional arguments"),
    ],
)
def test_what_is_no_loss_is_refused(wrong: LossFn, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_loss_function(wrong)


def test_a_loss_that_keeps_to_the_contract_is_taken_and_what_it_raises_is_left_as_it_is() -> None:
    check_loss_function(lambda c, r, m, w: (w * (1 - (c - r))).relu_())
    with pytest.raises(ZeroDivisionError):
        check_loss_function(lambda c, r, m, w: c / (1 // 0))
    with pytest.raises(UserError, match=r"custom_fn\.path: expected a Python file with f, got None. One from"):
        loss_function(LossSettings(custom_fn=CustomFunction(name="f", source="a1")))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.loss.custom_fn.path=a.py"], r"^model\.loss\.custom_fn: expected both path and name, or neither, got"),
        (["model.loss.custom_fn.name=f"], r"^model\.loss\.custom_fn: expected both path and name, or neither, got"),
        (["model.data.custom_cls.path=a.py"], r"^model\.data\.train\[0\]: custom_cls: expected both path and name"),
        (
            ["model.loss.custom_fn.path=a.py", "model.loss.custom_fn.name=f", "model.loss.label_smoothing=0.1"],
            r"^model\.loss\.label_smoothing: f is the loss and does not read it\. Unset it\.",
        ),
    ],
)
def test_what_does_not_name_a_loss_or_a_class_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_equations(load_settings("train", ["model=llama_4x256", "model.data.train=a.parquet", *overrides]))

"""What Transformer Engine's Python, our padding, scaling and recompute compute, on the device with numbers.

The truth is an independent Llama whose factors are rounded to the same formats (`tests.support.rounded_llama`), and an
ordinary run in fp32. `make test` has one recipe, `make test-phantom` all of them.
"""

import os
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.support.numbers import LR, ROUNDINGS, STEPS, Numbers, Runs, rms
from tests.support.rounded_llama import train
from tests.support.rounding import Exact, Noisy

ALL = bool(os.environ.get("NEMO_BT_TEST_PHANTOM"))
only_on_request = pytest.mark.skipif(not ALL, reason="make test-phantom")
RECIPES = list(ROUNDINGS) if ALL else ["tensorwise"]
FP8 = [name for name in RECIPES if name != "bf16"]
SEEDS = range(4)
_LAST = ("output_layer.", "decoder.layers.3.mlp.", "decoder.layers.3.self_attention.linear_proj.")


def rewards_of(run: Numbers, rounding: Exact) -> Tensor:
    """Of the first step's stream, by the independent model."""
    with torch.no_grad():
        return run.rounded()(run.first["tokens"], run.first["segments"], rounding)


def gradients_of(run: Numbers, rounding: Exact) -> dict[str, Tensor]:
    """Of the first step, clipped, under Megatron's names."""
    model = run.rounded()
    train(model, run.steps[:1], rounding, lr=0.0)
    return model.gradients()


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Relative difference of the gradient of each matrix; Megatron's table of tokens has rows that nothing reads."""
    assert found.keys() == wanted.keys()
    matrices = {name: one for name, one in wanted.items() if one.ndim > 1}
    return {name: rms(found[name][: len(one)] - one) / rms(one) for name, one in matrices.items()}


@pytest.mark.parametrize("recipe", FP8)
def test_rewards_are_those_of_factors_rounded_by_other_code(recipe: str, numbers_of: Runs) -> None:
    """But for what the two sum up in another order, which turns a rounding now and then."""
    run = numbers_of(recipe)
    expected = rewards_of(run, ROUNDINGS[recipe]())
    error_of_format = rms(expected - rewards_of(run, Exact()))
    assert rms(run.rewards - expected) < error_of_format / 30


@pytest.mark.parametrize("recipe", FP8)
def test_gradients_are_those_of_factors_rounded_by_other_code(recipe: str, numbers_of: Runs) -> None:
    """Down to the last layer's attention, which sums in another order.

    A rounding that turns is off by a unit, up to a quarter in E5M2: where gradients differ by d, a share of d / unit
    turns, so that they differ by the root of d * unit behind the next matrix, and so on. That stays below what the
    format does to them.
    """
    run = numbers_of(recipe)
    expected = gradients_of(run, ROUNDINGS[recipe]())
    error_of_format = distance(gradients_of(run, Exact()), expected)
    found = distance(run.gradients, expected)
    for name, error in found.items():
        assert error < error_of_format[name] * (0.2 if name.startswith(_LAST) else 0.85), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_recompute_changes_nothing(recipe: str, numbers_of: Runs) -> None:
    """To the last bit: rewards of all steps, gradients and losses."""
    run, again = numbers_of(recipe), numbers_of(f"{recipe} recompute")
    assert run.steps == again.steps
    assert run.losses == again.losses
    assert all(torch.equal(gradient, again.gradients[name]) for name, gradient in run.gradients.items())
    assert run.gradients.keys() == again.gradients.keys()


@only_on_request
@pytest.mark.parametrize("model", ["four layers", "quickstart"])
@pytest.mark.parametrize("recipe", ROUNDINGS)
def test_rewards_beside_fp32(recipe: str, model: str, numbers_of: Runs) -> None:
    """Their errors are as large as those of factors that have errors of the format's size, of any sign.

    Those of bf16 are as large as the ones of the independent model.
    """
    run, plain = numbers_of(recipe, model), numbers_of("fp32", model)
    real = slice(0, max(end for *_, end, _ in plain.first["segments"]))
    assert run.first["tokens"][real] == plain.first["tokens"][real]
    assert run.first["segments"] == plain.first["segments"]
    found = rms(run.rewards - plain.rewards)
    exact = rewards_of(run, Exact())
    if recipe == "bf16":
        of_format = [rms(exact - plain.rewards)]
    else:
        of_format = [rms(rewards_of(run, Noisy(seed)) - exact) for seed in SEEDS]
    assert min(of_format) / 1.5 < found < max(of_format) * 1.5


@pytest.fixture(scope="module")
def drift_of(numbers_of: Runs) -> Callable[[str], float]:
    """How far errors of the format's size, in all products of all passes, take the losses of a model's run."""

    @cache
    def drift(model: str) -> float:
        run = numbers_of("bf16", model)
        exact, *others = (
            torch.tensor(train(run.rounded(), run.steps, rounding, LR[model]))
            for rounding in (Exact(), *map(Noisy, SEEDS[:2]))
        )
        return max(rms(losses - exact) for losses in others)

    return drift


@only_on_request
@pytest.mark.parametrize("model", ["four layers", "quickstart"])
@pytest.mark.parametrize("recipe", [*ROUNDINGS, "delayed gathered"])
def test_losses_beside_fp32(recipe: str, model: str, numbers_of: Runs, drift_of: Callable[[str], float]) -> None:
    losses, plain = (torch.tensor(numbers_of(name, model).losses) for name in (recipe, "fp32"))
    assert len(losses) == len(plain) == STEPS
    assert rms(losses - plain) < drift_of(model) * (0.5 if recipe == "bf16" else 2)


@only_on_request
@pytest.mark.parametrize("recipe", ["tensorwise", "delayed"])
def test_more_padding_changes_no_reward(recipe: str, numbers_of: Runs) -> None:
    run, padded = numbers_of(recipe), numbers_of(f"{recipe} padded")
    assert len(padded.first["tokens"]) > len(run.first["tokens"])
    assert padded.first["segments"] == run.first["segments"]
    assert rms(padded.rewards - run.rewards) < rms(run.rewards - rewards_of(run, Exact())) / 30


@pytest.mark.parametrize("recipe", [name for name in FP8 if name != "delayed"])
def test_weights_that_are_held_in_fp8_change_nothing(recipe: str, numbers_of: Runs) -> None:
    """To the last bit: they are rounded from the main copies when the optimizer steps, not in each forward pass.

    They start from the main copies' bf16, not from what FP8 leaves of it.
    """
    run, gathered = numbers_of(f"{recipe} sharded"), numbers_of(f"{recipe} gathered")
    assert run.steps == gathered.steps
    assert run.losses == gathered.losses
    assert len(set(run.losses)) == STEPS

"""Learning rates of every schedule against their closed forms."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from nemo_bt.config.optim import SchedSettings
from nemo_bt.config.optim import Schedule as ScheduleName
from nemo_bt.cpu import device as cpu

LR, MIN_LR, STEPS, WARMUP, DECAY = 1e-3, 1e-4, 20, 4, 5
"""A warm-up of k steps gives step i, from 0, i + 1 of k + 1 parts of the rate."""


def fallen(shape: Callable[[float], float], start: int) -> Callable[[int], float]:
    """From the rate to the least one between `start` and the end; `shape` goes from 1 to 0."""
    return lambda step: MIN_LR + (LR - MIN_LR) * shape((step - start) / (STEPS - start))


HELD = STEPS - DECAY
EXPECTED: dict[str, Callable[[int], float]] = {
    "constant": lambda step: LR,
    "CosineAnnealing": fallen(lambda share: 0.5 * (1 + math.cos(math.pi * share)), WARMUP),
    "WarmupAnnealing": fallen(lambda share: 1 - share, WARMUP),
    "PolynomialDecayAnnealing": fallen(lambda share: (1 - share) ** 2, WARMUP),
    "InverseSquareRootAnnealing": lambda step: LR * math.sqrt((WARMUP + 1) / (step + 1)),
    "WarmupHoldAnnealLinear": lambda step: LR if step < HELD else fallen(lambda share: 1 - share, HELD)(step),
    "WarmupHoldAnnealOneMinusSquareRoot": lambda step: (
        LR if step < HELD else max(MIN_LR, LR * (1 - math.sqrt((step - HELD) / DECAY)))
    ),
}


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_rates_are_the_closed_forms(name: str) -> None:
    cpu.install()
    from nemo_bt.training.lr_schedule import Schedule, options_of

    settings = SchedSettings(
        name=name, warmup_steps=0, warmup_ratio=0.17, min_lr=MIN_LR, power=2.0, decay_ratio=DECAY / STEPS
    )
    optimizer: Any = torch.optim.SGD([torch.zeros(1)], lr=LR)
    schedule = Schedule(name, options_of(settings, STEPS)).scheduler(None, optimizer)["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    warming = [LR * (step + 1) / (WARMUP + 1) for step in range(WARMUP)]
    assert rates == pytest.approx([*warming, *map(EXPECTED[name], range(WARMUP, STEPS))], rel=1e-9)


def test_a_run_that_is_shorter_than_warm_up_and_decay_never_holds() -> None:
    from nemo_bt.training.lr_schedule import options_of

    settings = SchedSettings(name="WarmupHoldAnnealLinear", warmup_steps=8, decay_ratio=0.5)
    assert options_of(settings, 10)["hold_steps"] == 0

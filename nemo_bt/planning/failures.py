"""The effective training time ratio (ETTR) of a run whose devices fail now and then, and the best save interval.

A job runs until one of its devices fails, by chance and at the same rate at any moment. Then its ranks are ended, it
waits for the next start, starts, restores the newest checkpoint that was whole, and goes on. Steps behind that
checkpoint are computed again. A save keeps training from going on for a while, and is whole later, beside the training;
the next one begins when it is.

Sources: Young 1974 (first-order optimum), Daly 2006 (the complete model; here saves are written beside the training).
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from math import exp, log, sqrt
from pathlib import Path

from nemo_bt.config.plan import FailureSettings
from nemo_bt.errors import UserError
from nemo_bt.observability.events import read_events
from nemo_bt.observability.goodput import measured

_MOST_SAVES = 100_000
"""Saves of a simulation, about; it ends at the failure behind them."""
TARGET_ETTR = 0.97
"""What a job of 1,024 devices should reach."""


@dataclass(frozen=True)
class FailureCosts:
    """Seconds of a job with failures.

    Args:
        between_s: from a start to a failure, in the mean.
        gone_s: from a failure to the next start: until all ranks have ended, and in the queue.
        start_s: from the start of the command to the first step, with a restore.
        save_blocks_s: that a save keeps training from going on.
        save_s: from the begin of a save until it is whole; not below `save_blocks_s`.
    """

    between_s: float
    gone_s: float
    start_s: float
    save_blocks_s: float
    save_s: float

    def blocks_s(self, work_s: float) -> float:
        """Give how long a save keeps training from going on, where the next one comes after `work_s` of steps."""
        return max(self.save_blocks_s, self.save_s - work_s)


def failure_costs(settings: FailureSettings, num_devices: int) -> FailureCosts:
    """Give the costs of settings, or those that a run has told.

    Raises:
        UserError: a run is named that told of no save or no step.
    """
    hours = settings.mean_time_to_failure_hours or settings.device_hours_to_failure / num_devices
    costs = FailureCosts(
        between_s=3600 * hours,
        gone_s=settings.notice_s + settings.queue_s,
        start_s=settings.start_s,
        save_blocks_s=settings.save_blocks_s,
        save_s=max(settings.save_s, settings.save_blocks_s),
    )
    if not settings.measured_in:
        return costs
    told = measured(read_events(Path(settings.measured_in)))
    if told is None:
        raise UserError(
            f"plan.failures.measured_in={settings.measured_in}: expected the log directory of a run that saved, found "
            "no save and step with their seconds in its events.jsonl."
        )
    save_s = max(told.save_s, told.save_blocks_s)
    return replace(costs, start_s=told.start_s, save_blocks_s=told.save_blocks_s, save_s=save_s)


def expected_ettr(costs: FailureCosts, work_s: float) -> float:
    """Give the ETTR of endless training with `work_s` of steps between two saves.

    A start keeps the work of its whole saves. Save j is whole (j - 1)(work + blocks) + work + save seconds behind the
    start-up, so that their number is a geometric series in exp(-(work + blocks) / between).
    """
    blocks_s = costs.blocks_s(work_s)
    cycle = (work_s + blocks_s) / costs.between_s
    saves = exp(-(costs.start_s + costs.save_s + work_s) / costs.between_s) / (1 - exp(-cycle))
    return work_s * saves / (costs.between_s + costs.gone_s)


def simulated_ettr(costs: FailureCosts, work_s: float, seed: int = 1) -> float:
    """Give the ETTR of a run that goes from event to event: starts, saves that begin and are whole, and failures."""
    draw = random.Random(seed)
    kept_s = passed_s = 0.0
    num_saves = 0
    while num_saves < _MOST_SAVES:
        fails_s = draw.expovariate(1 / costs.between_s)
        now_s = costs.start_s
        while now_s + work_s + costs.save_s <= fails_s:
            now_s += work_s + costs.blocks_s(work_s)
            kept_s += work_s
            num_saves += 1
        num_saves += 1
        passed_s += fails_s + costs.gone_s
    return kept_s / passed_s


def best_interval_steps(costs: FailureCosts, step_s: float) -> int:
    """Give the number of steps between two saves with the largest ETTR: a search over one peak."""
    low, high = (
        1,
        max(2, round(20 * sqrt(2 * costs.save_s * costs.between_s) / step_s), round(costs.between_s / step_s)),
    )
    while low < high:
        middle = (low + high) // 2
        if expected_ettr(costs, middle * step_s) < expected_ettr(costs, (middle + 1) * step_s):
            low = middle + 1
        else:
            high = middle
    return low


def young_s(costs: FailureCosts) -> float:
    """Give Young's interval, sqrt(2 x what a save keeps training from x the mean time to a failure), seconds."""
    return sqrt(2 * costs.save_blocks_s * costs.between_s)


def largest_start_s(costs: FailureCosts, work_s: float, ettr: float) -> float:
    """Give the start-up with which the ETTR is reached at this interval, seconds; below 0 where none is short."""
    return costs.start_s + costs.between_s * log(expected_ettr(costs, work_s) / ettr)


def outlook(settings: FailureSettings, num_devices: int, step_s: float) -> dict[str, float]:
    """Give what failures leave of a job's time with the best save interval, and what that rests on.

    Args:
        step_s: seconds of a step.
    """
    costs = failure_costs(settings, num_devices)
    steps = best_interval_steps(costs, step_s)
    return {
        **asdict(costs),
        "every_n_train_steps": steps,
        "work_s": steps * step_s,
        "ettr": simulated_ettr(costs, steps * step_s),
        "largest_start_s": largest_start_s(costs, steps * step_s, TARGET_ETTR),
    }


def told_failures(settings: FailureSettings, num_devices: int, step_s: float) -> str:
    """Say the outlook in a line."""
    of = outlook(settings, num_devices, step_s)
    return (
        f"failures: one in {of['between_s'] / 3600:.1f} h of {num_devices:,} devices leaves an ETTR of "
        f"{of['ettr']:.1%} with a save every {of['work_s']:,.0f} s, "
        f"exp_manager.checkpoint_callback_params.every_n_train_steps={of['every_n_train_steps']}. It counts "
        f"{of['start_s']:.1f} s for a start, {of['save_blocks_s']:.1f} of {of['save_s']:.1f} s of a save, and "
        f"{of['gone_s']:.0f} s from a failure to the next start (plan.failures); {TARGET_ETTR:.0%} bears starts of "
        f"{of['largest_start_s']:,.0f} s"
    )

"""ETTR under failures: the simulation beside closed forms, and the interval beside Young's and an exhaustive search."""

import json
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest

from nemo_bt.config.plan import FailureSettings
from nemo_bt.errors import UserError
from nemo_bt.planning import failures
from nemo_bt.planning.failures import FailureCosts, expected_ettr, simulated_ettr

MTTF_S = 7.9 * 3600
COSTS = FailureCosts(between_s=MTTF_S, gone_s=150, start_s=120, save_blocks_s=2, save_s=40)
BLOCKING = replace(COSTS, gone_s=0, save_blocks_s=30, save_s=30)


def daly(restart_s: float, save_s: float, work_s: float) -> float:
    """Daly 2006, eq. 20: the share of useful work, where saves block and a failure costs a restart."""
    return work_s * exp(-restart_s / MTTF_S) / (MTTF_S * (exp((work_s + save_s) / MTTF_S) - 1))


@pytest.mark.parametrize("work_s", [60.0, 300.0, 3600.0])
def test_blocking_saves_have_dalys_closed_form(work_s: float) -> None:
    assert expected_ettr(BLOCKING, work_s) == pytest.approx(daly(120, 30, work_s), rel=1e-12)


@pytest.mark.parametrize("costs", [COSTS, BLOCKING, replace(COSTS, save_s=400)])
@pytest.mark.parametrize("work_s", [120.0, 600.0, 3600.0])
def test_the_simulation_has_the_closed_form(costs: FailureCosts, work_s: float) -> None:
    """Of n failures the ratio's error is about that of n draws of a time that is its own deviation."""
    runs = [simulated_ettr(costs, work_s, seed) for seed in range(8)]
    mean = sum(runs) / len(runs)
    error = (sum((one - mean) ** 2 for one in runs) / 7 / 8) ** 0.5
    assert abs(mean - expected_ettr(costs, work_s)) < 4 * error
    assert error < 0.002
    assert simulated_ettr(costs, work_s, 3) == runs[3]


def test_a_save_that_is_not_whole_keeps_the_next_from_beginning() -> None:
    slow = replace(COSTS, save_s=400)
    assert (slow.blocks_s(120), slow.blocks_s(3600), COSTS.blocks_s(120)) == (280, 2, 2)


@pytest.mark.parametrize("step_s", [3.0, 10.0, 700.0, 5000.0])
@pytest.mark.parametrize("costs", [COSTS, BLOCKING, replace(COSTS, save_s=400)])
def test_the_best_interval_is_that_of_an_exhaustive_search(costs: FailureCosts, step_s: float) -> None:
    best = failures.best_interval_steps(costs, step_s)
    tried = {steps: expected_ettr(costs, steps * step_s) for steps in range(1, int(MTTF_S / step_s) + 3)}
    assert best == max(tried, key=lambda steps: tried[steps])


def test_rare_failures_have_youngs_interval() -> None:
    rare = replace(BLOCKING, between_s=1e7)
    assert failures.best_interval_steps(rare, 1.0) == pytest.approx(failures.young_s(rare), rel=0.01)
    assert failures.young_s(rare) == pytest.approx((2 * 30 * 1e7) ** 0.5)


def test_the_start_that_a_ratio_bears_gives_that_ratio() -> None:
    start_s = failures.largest_start_s(COSTS, 300, 0.95)
    assert expected_ettr(replace(COSTS, start_s=start_s), 300) == pytest.approx(0.95, rel=1e-12)


def test_1024_gpus_fail_every_7_9_hours_unless_told_otherwise() -> None:
    assert failures.failure_costs(FailureSettings(), 1024).between_s == pytest.approx(MTTF_S, rel=1e-3)
    assert failures.failure_costs(FailureSettings(mean_time_to_failure_hours=2), 1024).between_s == 7200
    line = failures.told_failures(FailureSettings(), 1024, 10.0)
    assert line.startswith("failures: one in 7.9 h of 1,024 devices leaves an ETTR of 99.0%")
    assert "every_n_train_steps=12. " in line


def test_a_run_of_ones_own_gives_the_costs(tmp_path: Path) -> None:
    at = {"time": "2026-01-01T00:00:00.000+00:00", "host": "h", "pid": 1}
    spent = {"start": 40.0, "restore": 10.0, "steps": 30.0, "save": 6.0}
    events = [at | {"event": "started", "step": 0, "of_steps": 9, "ranks": 1, "running_s": 1.0}]
    saved = at | {"event": "saved", "step": 5, "steps_s": 30.0, "spent_s": spent}
    events += [saved | {"took_s": took} for took in (20.0, 30.0)]
    settings = FailureSettings(measured_in=str(tmp_path))
    with pytest.raises(UserError, match="expected the log directory of a run that saved"):
        failures.failure_costs(settings, 8)
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    costs = failures.failure_costs(settings, 8)
    assert (costs.start_s, costs.save_blocks_s, costs.save_s) == (50.0, 3.0, 25.0)

"""What a checkpoint holds of a run beside weights comes back, also on another number of ranks."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.config.load import load_settings
from nemo_bt.metrics import NUM_SUMS, SUMS, attribute_means, margin_counts, means, num_sums
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.time_spent import TimeSpent


def run_state(log_dir: Path, num_attributes: int = 0) -> Any:
    """Of a run that is to start."""
    from nemo_bt.observability.metrics_log import MetricsLog
    from nemo_bt.training.callbacks.monitor import Monitor
    from nemo_bt.training.callbacks.nonfinite import NonFiniteGuard
    from nemo_bt.training.callbacks.run_state import RunState
    from nemo_bt.training.callbacks.validation import Validation
    from nemo_bt.training.steps.data_module import PairSampler

    sampler, terminal, log = PairSampler(2048, {"train": 1}, num_attributes), Terminal(None), MetricsLog(log_dir)
    spent = TimeSpent(0.0, None)
    settings = load_settings("train", ["model.data.train=unused", "exp_manager.explicit_log_dir=unused"]).trainer
    monitor = Monitor(sampler, terminal, log, settings, spent, num_steps=100)
    validation = Validation(sampler, terminal, log, settings, spent, num_steps=100)
    return RunState(sampler, monitor, validation, NonFiniteGuard(sampler, terminal, most_in_a_row=3))


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_state_comes_back(tmp_path: Path, num_ranks: int) -> None:
    before, after = run_state(tmp_path), run_state(tmp_path)
    before.guard.in_a_row, before.sampler.skipped_steps = 2, 7
    before.monitor.interval = dict.fromkeys(before.monitor.interval, 3.0)
    for loss in (0.6, 0.5):
        before.monitor.spikes.look_at(loss)
    sums_1M = torch.arange(NUM_SUMS, dtype=torch.float64)[None]
    before.sampler.add_sums("train", sums_1M)
    before.validation.record = {"step": 5, "loss": 0.4}
    state = before.state_dict()
    state["ranks"] *= num_ranks
    after.load_state_dict(state)
    assert (after.guard.in_a_row, after.sampler.skipped_steps) == (2, 7)
    assert list(after.monitor.spikes.before) == [0.6, 0.5]
    assert after.monitor.interval == before.monitor.interval
    assert after.validation.record == before.validation.record
    assert torch.equal(after.sampler.sums_SM["train"], num_ranks * sums_1M)
    torch.set_rng_state(state["ranks"][0]["random"]["host"])
    expected = torch.rand(3)
    after.on_train_start(None, None)
    assert torch.equal(torch.rand(3), expected) == (num_ranks == 1)


@pytest.mark.usefixtures("one_rank")
def test_sums_of_an_earlier_version_go_on(tmp_path: Path) -> None:
    before, after = run_state(tmp_path), run_state(tmp_path)
    before.sampler.add_sums("train", torch.arange(7, dtype=torch.float64)[None])
    after.load_state_dict(before.state_dict())
    after.sampler.add_sums("train", torch.ones(1, NUM_SUMS, dtype=torch.float64))
    (sums_M,) = after.sampler.sums_SM["train"].tolist()
    assert sums_M[:7] == [1 + number for number in range(7)]
    assert math.isnan(means(sums_M)["reward_std"])
    assert sum(margin_counts(sums_M)) == NUM_SUMS - len(SUMS)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("num_before", [NUM_SUMS, num_sums(2)])
def test_sums_of_attributes_go_on(tmp_path: Path, num_before: int) -> None:
    """Also those of a version that did not measure attributes: they then tell of the steps since."""
    before, after = run_state(tmp_path, 2), run_state(tmp_path, 2)
    before.sampler.add_sums("train", torch.ones(1, num_before, dtype=torch.float64))
    after.load_state_dict(before.state_dict())
    after.sampler.add_sums("train", torch.ones(1, num_sums(2), dtype=torch.float64))
    (sums_M,) = after.sampler.take_sums(["train"], torch.device("cpu"))[0]
    assert sums_M[:NUM_SUMS] == [2.0] * NUM_SUMS
    assert attribute_means(sums_M, ["a", "b"])["attribute/b/known"] == 1 + (num_before > NUM_SUMS)

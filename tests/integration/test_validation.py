"""When runs validate, what they keep for it, and what ends them early."""

import json
from pathlib import Path

import pytest
import torch

from nemo_bt.batching.sampling import validation_interval
from nemo_bt.observability.events import read_events
from tests.support.launches import Logs
from tests.support.layouts import STEPS, ZERO, checkpoint, common
from tests.support.runs import Run, full_tensors, metrics, nemo_bt

MODEL = ["model=llama_quickstart", "model.hidden_size=64", "model.ffn_hidden_size=160"]
SAVING, STOPPING = "exp_manager.checkpoint_callback_params", "exp_manager.early_stopping_callback_params"
LOSS, ACCURACY = "val/held_out/loss", "val/held_out/accuracy"


def planned_runs(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    named = {
        "at start": ["trainer.validate_at_start=true", "trainer.val_check_interval=4"],
        "early": [
            "trainer.val_check_interval=2",
            "exp_manager.create_early_stopping_callback=true",
            f"{STOPPING}.monitor={ACCURACY}",
            f"{STOPPING}.mode=max",
            f"{STOPPING}.min_delta=1.0",
            f"{STOPPING}.patience=2",
        ],
        "no time": ["exp_manager.max_time_per_run=00:00:00:01"],  # the processes are older than that
        "best": [
            "trainer.val_check_interval=1",
            "model.optim.lr=3e-3",
            f"{SAVING}.every_n_train_steps=1",
            f"{SAVING}.save_last_n=1",
            f"{SAVING}.save_top_k=2",
            f"{SAVING}.monitor={LOSS}",
        ],
    }
    one = [Run([*common(dataset, folder / name, 1), *MODEL, *more]) for name, more in named.items()]
    both = [*MODEL, *ZERO, "trainer.val_check_interval=4", "trainer.log_every_n_steps=3"]
    whole, asked = (
        [*common(dataset, folder / name, 2), *both, "exp_manager.resume_if_exists=true"] for name in ("whole", "asked")
    )
    extended = [*common(dataset, folder / "extended", 1), *MODEL, "exp_manager.resume_if_exists=true"]
    one += [Run([*extended, f"trainer.max_steps={steps}"]) for steps in (3, 5)]
    return {1: one, 2: [Run(whole), Run(asked, asked_at=4), Run(asked, asked_at=STEPS)]}


@pytest.mark.runs("extended")
def test_a_run_that_is_extended_validates_every_pair_once_a_time(logs: Logs) -> None:
    lines = [json.loads(line) for line in (logs / "extended" / "metrics.jsonl").read_text().splitlines()]
    validated = [(line["step"], line["val/held_out/pairs"]) for line in lines if "val/held_out/pairs" in line]
    assert [step for step, _ in validated] == [3, 5]
    assert len({pairs for _, pairs in validated}) == 1
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4, 5]


@pytest.mark.runs("asked", "whole")
def test_a_validation_that_was_broken_off_is_made_again_as_a_whole(logs: Logs) -> None:
    shown = logs.output(2)
    assert shown.count(f"checkpoint and metrics: {logs.folder}/asked") == 2
    assert "stopped by SIGUSR1 at step 4 of 10 and saved" in shown
    for key in (
        "step",
        "train/loss",
        "train/accuracy",
        "train/packing_efficiency",
        LOSS,
        ACCURACY,
        "val/held_out/ties",
    ):
        assert metrics(logs / "asked", key) == metrics(logs / "whole", key)
    assert metrics(logs / "asked", "step") == [3, 4, 6, 8, 9, 10, 10]
    weights = [full_tensors(checkpoint(logs / name)) for name in ("asked", "whole")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


@pytest.mark.runs("asked")
def test_the_last_validation_is_not_broken_off(logs: Logs) -> None:
    events = [
        (event["event"], event["step"], event.get("stopped_by"))
        for event in read_events(logs / "asked")
        if event["event"] in ("started", "ended")
    ]
    assert events == [("started", 0, None), ("ended", 4, "SIGUSR1"), ("started", 4, None), ("ended", 10, None)]


@pytest.mark.runs("no time")
def test_a_run_without_time_ends_before_it_begins(logs: Logs) -> None:
    *_, ended = read_events(logs / "no time")
    assert (ended["event"], ended["step"], ended["stopped_by"]) == ("ended", 0, "exp_manager.max_time_per_run")
    shown = logs.output(1)
    assert "stopped by exp_manager.max_time_per_run before it got further than step 0" in shown
    assert list((logs / "no time" / "checkpoints").iterdir()) == []


def validated(log_dir: Path) -> list[float]:
    """Steps after which a run validated."""
    steps, losses = metrics(log_dir, "step"), metrics(log_dir, "train/loss")
    assert len(steps) == len(losses) + len(metrics(log_dir, LOSS))
    return [step for i, step in enumerate(steps) if step in steps[:i] or step == 0]


@pytest.mark.runs("at start")
def test_before_the_first_step_and_at_intervals(logs: Logs) -> None:
    assert validated(logs / "at start") == [0, 4, 8, 10]


@pytest.mark.runs("early")
def test_a_run_ends_when_nothing_gets_better(logs: Logs) -> None:
    """No accuracy is better by 1: the first validation is the best, and two more are waited for."""
    assert validated(logs / "early") == [2, 4, 6]
    assert checkpoint(logs / "early", 6).is_dir()


@pytest.mark.runs("best")
def test_the_best_checkpoints_stay_beside_the_newest(logs: Logs) -> None:
    losses = metrics(logs / "best", LOSS)
    best = sorted(range(1, 11), key=lambda step: losses[step - 1])[:2]
    kept = {int(path.stem.split("step")[1]) for path in (logs / "best" / "checkpoints").iterdir()}
    assert kept == {*best, 10}
    assert best != [9, 10]


@pytest.mark.runs("at start")
def test_validation_alone_gives_what_training_measured(logs: Logs, dataset: Path, tmp_path: Path) -> None:
    overrides = [f"+model.data.validation.held_out={dataset / 'random_val.parquet'}", "trainer.accelerator=cpu"]
    overrides += [f"exp_manager.explicit_log_dir={tmp_path}", "model.global_batch_size=16"]
    overrides += [f"model.restore_from_path={checkpoint(logs / 'at start')}"]
    result = nemo_bt("validate", *overrides)
    assert result.returncode == 0, result.stderr
    assert metrics(tmp_path, "step") == [0]
    for key in (LOSS, ACCURACY, "val/held_out/margin"):
        assert metrics(tmp_path, key) == pytest.approx(metrics(logs / "at start", key)[-1:], rel=1e-6, abs=1e-7)
    assert "longer answer wins" in result.stdout
    assert not (tmp_path / "checkpoints").exists()


def test_validation_without_a_set_is_refused(dataset: Path, tmp_path: Path) -> None:
    overrides = [f"exp_manager.explicit_log_dir={tmp_path}", f"model.tokenizer.type={dataset / 'tokenizer'}"]
    result = nemo_bt("validate", *overrides, *MODEL, "trainer.accelerator=cpu")
    assert result.returncode == 2
    assert "model.data.validation: expected a set to validate on, got none" in result.stderr


@pytest.mark.parametrize(("given", "steps", "expected"), [(7, 100, 7), (0.25, 101, 26), (1.0, 5, 5)])
def test_intervals(given: float, steps: int, expected: int) -> None:
    assert validation_interval(given, steps) == expected

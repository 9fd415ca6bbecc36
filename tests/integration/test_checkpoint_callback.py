"""Saving: what Megatron's writers report reaches the rank, and saves in the background leave whole checkpoints only."""

import math
import os
import pickle
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.cpu import device as cpu
from tests.support.launches import Logs
from tests.support.runs import Run, full_tensors, metrics


@pytest.fixture
def results_queue() -> Any:
    cpu.install()
    from nemo_bt.training.callbacks.checkpoint import ResultsQueue

    return ResultsQueue()


def in_a_fork(function: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        function()
        os._exit(0)
    os.waitpid(child, 0)


def test_reports_come_out_in_order_whoever_put_them(results_queue: Any) -> None:
    with pytest.raises(queue.Empty):
        results_queue.get_nowait()
    big = list(range(100_000))  # more than a pipe holds
    in_a_fork(lambda: results_queue.put({0: big}))
    results_queue.put("own")
    assert results_queue.get_nowait() == {0: big}
    in_a_fork(lambda: results_queue.put("another"))
    assert [results_queue.get_nowait(), results_queue.get_nowait()] == ["own", "another"]
    with pytest.raises(queue.Empty):
        results_queue.get_nowait()


def test_a_report_that_was_cut_short_is_none(results_queue: Any) -> None:
    results_queue.file.write(pickle.dumps(list(range(1000)))[:-10])
    with pytest.raises(queue.Empty):
        results_queue.get_nowait()


SAVER = "exp_manager.checkpoint_callback_params"


def four_steps(dataset: Path) -> list[str]:
    return [
        "model=llama_quickstart",
        "model.hidden_size=64",
        "model.ffn_hidden_size=160",
        f"model.data.train={dataset / 'random.parquet'}",
        f"model.tokenizer.type={dataset / 'tokenizer'}",
        "model.global_batch_size=16",
        "model.data.tokens_per_micro_batch=2048",
        "model.optim.sched.warmup_steps=0",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.max_steps=4",
        f"{SAVER}.every_n_train_steps=1",
    ]


def planned_runs(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    """The same two-rank run, saving every step in the background, at once, and in the background with one kept.

    And the first of them, finished after four steps, with four more.
    """
    ways = {
        "background": [f"{SAVER}.save_last_n=0"],
        "at_once": [f"{SAVER}.save_last_n=0", f"{SAVER}.async_save=false"],
        "one_kept": [f"{SAVER}.save_last_n=1"],
    }
    runs = [
        Run([*four_steps(dataset), *extra, f"exp_manager.explicit_log_dir={folder / name}"])
        for name, extra in ways.items()
    ]
    more = ["trainer.max_steps=8", "trainer.log_every_n_steps=1", "exp_manager.resume_if_exists=true"]
    extended = [*four_steps(dataset), *more, f"exp_manager.explicit_log_dir={folder / 'extended'}"]
    return {2: [*runs, Run(extended, folder / "background" / "checkpoints" / "reward-step4.nemo")]}


@pytest.mark.runs("background", "at_once")
def test_a_save_in_the_background_holds_the_weights_of_its_step(logs: Logs) -> None:
    steps = [f"reward-step{step}.nemo" for step in (1, 2, 3, 4)]
    for way in ("background", "at_once"):
        assert sorted(path.name for path in (logs / way / "checkpoints").iterdir()) == steps
    for step in steps:
        tensors = [full_tensors(logs / way / "checkpoints" / step) for way in ("background", "at_once")]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    first, last = (full_tensors(logs / "background" / "checkpoints" / step) for step in (steps[0], steps[-1]))
    assert not all(torch.equal(first[name], last[name]) for name in first)


@pytest.mark.runs("one_kept")
def test_old_checkpoints_go_only_when_the_next_is_whole(logs: Logs) -> None:
    assert [path.name for path in (logs / "one_kept" / "checkpoints").iterdir()] == ["reward-step4.nemo"]
    assert (logs / "one_kept" / "checkpoints" / "reward-step4.nemo" / "context" / "io.json").exists()


@pytest.mark.runs("extended")
def test_a_finished_run_gets_more_steps_at_the_rates_of_the_longer_schedule(logs: Logs) -> None:
    """Step k has the rate of a cosine over eight steps at k - 1."""
    expected = [9e-6 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in (4, 5, 6, 7)]
    assert metrics(logs / "extended", "train/lr") == pytest.approx(expected, rel=1e-6)

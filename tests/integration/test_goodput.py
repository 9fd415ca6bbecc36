"""A real run that is killed and resumed accounts for all of its time."""

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.observability.events import read_events
from nemo_bt.observability.goodput import account, measured
from tests.support.layouts import common
from tests.support.runs import metrics, nemo_bt

STEPS = 40


def command(dataset: Path, log_dir: Path) -> list[str]:
    saver = "exp_manager.checkpoint_callback_params"
    given = [one for one in common(dataset, log_dir, 1) if not one.startswith(("trainer.max_steps", f"{saver}.async"))]
    given += [f"{saver}.every_n_train_steps=6", "exp_manager.resume_if_exists=true", "trainer.val_check_interval=20"]
    model = ["model=llama_quickstart", "model.hidden_size=64", "model.ffn_hidden_size=160"]
    return ["train", *given, *model, f"trainer.max_steps={STEPS}"]


def test_what_a_killed_and_resumed_run_tells_adds_up_to_its_time(dataset: Path, tmp_path: Path) -> None:
    log_dir, began_s = tmp_path / "run", time.time()
    argv = [sys.executable, "-m", "nemo_bt", *command(dataset, log_dir)]
    with subprocess.Popen(argv, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as killed:
        deadline_s = time.monotonic() + 120
        while len(metrics(log_dir, "train/loss")) < 9 or not saved_checkpoints(log_dir / "checkpoints"):
            assert killed.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        killed.kill()
    seen_s = dict(zip(metrics(log_dir, "step"), metrics(log_dir, "train/step_time_s"), strict=False))
    assert nemo_bt(*command(dataset, log_dir), OMP_NUM_THREADS="1").returncode == 0
    events = read_events(log_dir)
    found = account(events)
    assert found is not None
    ended_s = datetime.fromisoformat(events[-1]["time"]).timestamp()
    assert found.wall_s == pytest.approx(ended_s - began_s, abs=1.5)  # a process takes a moment to begin its clock
    # metrics.jsonl has the steps that count, by another clock, and had those that were computed again.
    resumed_at = [event["step"] for event in events if event["event"] == "started"][1]
    assert found.seconds["steps"] == pytest.approx(sum(metrics(log_dir, "train/step_time_s")), rel=0.05)
    again_s = sum(step_s for step, step_s in seen_s.items() if step > resumed_at)
    assert found.seconds["again"] == pytest.approx(again_s, rel=0.3, abs=0.2)  # it went on while it was looked at
    assert all(found.seconds[cause] > 0 for cause in ("start", "restore", "save", "validation", "between", "waiting"))
    assert found.seconds["failing"] == found.seconds["stopped"] == 0
    costs = measured(events)
    assert costs is not None
    assert 0 < costs.save_blocks_s < costs.save_s < 20
    shown = nemo_bt("status", str(log_dir)).stdout
    assert f"{found.ettr:.1%} of " in shown

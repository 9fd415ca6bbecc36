"""NeMo's objects put together by hand train as nemo_bt.train does, and a step runs in the order that it is told to."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.hf_models import save
from tests.support.runs import REPO, metrics

ORDER = [
    "Watchdog.on_train_batch_start",
    "NonFiniteGuard.on_train_batch_start",
    "GracefulStop.on_train_batch_start",
    "CheckpointCallback.on_train_batch_start",
    "Monitor.on_train_batch_start",
    "Validation.on_train_batch_start",
    "PairSampler.on_megatron_step_start",
    "PairSampler.on_megatron_step_end",
    "all_reduce 1",  # of the gradient norm, in Megatron's optimizer
    "all_reduce 1",  # whether a rank was asked to end
    "Watchdog.on_train_batch_end",
    "NonFiniteGuard.on_train_batch_end",
    "Monitor.on_train_batch_end",
    "all_reduce of sums",
    "Validation.on_train_batch_end",
]
"""As nemo_bt/training/callbacks/__init__.py narrates it; Megatron's own collectives are in test_planned_runs."""


@pytest.fixture(scope="module")
def printed(dataset: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("composed")
    base = save("qwen3", folder / "base", classifier=False, tokenizer=tokenizer)
    keys = ["model.optim.sched.name=constant", "model.optim.sched.warmup_steps=0", "trainer.log_every_n_steps=1"]
    keys += ["trainer.max_steps=3", "trainer.accelerator=cpu", "model.encoder_seq_length=512", "model.optim.lr=1e-3"]
    command = [sys.executable, "-m", "tests.support.by_hand", base, dataset / "random.parquet", folder, *keys]
    result = subprocess.run(list(map(str, command)), cwd=REPO, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line.split(" ", 1) for line in result.stdout.splitlines() if line.startswith(("order ", "losses "))]
    return folder, {name: json.loads(text) for name, text in lines}


def test_a_step_runs_in_the_order_that_is_told(printed: tuple[Path, dict[str, Any]]) -> None:
    seen = printed[1]["order"]
    first = [place for place, call in enumerate(seen) if call == ORDER[0]]
    last = [place for place, call in enumerate(seen) if call == ORDER[-1]]
    seen = seen[first[1] : last[1] + 1]  # the second step
    of_megatron = slice(
        seen.index("PairSampler.on_megatron_step_start") + 1, seen.index("PairSampler.on_megatron_step_end")
    )
    del seen[of_megatron]
    told = ["all_reduce of sums" if call.startswith("all_reduce") and call != "all_reduce 1" else call for call in seen]
    assert told == ORDER


def test_objects_put_together_by_hand_train_alike(printed: tuple[Path, dict[str, Any]]) -> None:
    folder, found = printed
    assert found["losses"] == pytest.approx(metrics(folder / "train", "train/loss"), abs=1e-5)

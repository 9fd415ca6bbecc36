"""What a start, a resume and a save cost, by the events of a run that is killed and resumed; and what that leaves.

python -m benchmarks.goodput

The run is the quickstart's on two ranks of CPUs. Its costs are defaults of plan.failures. What a large model on GPUs
adds is not in them: reading weights from a shared file system, NCCL's start, kernels that are compiled.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.results_file import Figure, write_results
from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.config.plan import FailureSettings
from nemo_bt.data.synthetic import write_dataset
from nemo_bt.observability.events import read_events
from nemo_bt.observability.goodput import account
from nemo_bt.planning.failures import (
    TARGET_ETTR,
    best_interval_steps,
    expected_ettr,
    failure_costs,
    largest_start_s,
    outlook,
    simulated_ettr,
)

_RUNS = 3
_SAVES_BEFORE = 3
_TIMEOUT_S = 240
_POLL_S = 0.02
_DEVICES = 1024
_STEP_S = 10.0
"""Of the simulated job."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/goodput"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    write_dataset(args.folder / "data")
    found: dict[str, list[float]] = {}
    for run in range(_RUNS):
        for name, value in _killed_and_resumed(args.folder / "data", args.folder / f"run{run}").items():
            found.setdefault(name, []).append(value)
    figures = [
        Figure(f"goodput/{name}", median(values), "s", min(values), max(values)) for name, values in found.items()
    ]
    print(
        f"wrote {write_results('goodput', args.host_kind, 'python -m benchmarks.goodput', figures + _simulated(found))}"
    )


def _killed_and_resumed(data: Path, log_dir: Path) -> dict[str, float]:
    """Run until some saves are whole, kill all ranks, resume to the end; give the seconds that its events tell."""
    saver = "exp_manager.checkpoint_callback_params"
    argv = [
        *(sys.executable, "-m", "nemo_bt", "train", "--config-name=quickstart"),
        f"exp_manager.explicit_log_dir={log_dir}",
        f"model.data.train={data / 'train.parquet'}",
        f"model.tokenizer.type={data / 'tokenizer'}",
        f"model.data.cache_dir={data / 'cache'}",
        "trainer.devices=2",
        "trainer.max_steps=40",
        "trainer.log_every_n_steps=1",
        f"{saver}.every_n_train_steps=5",
        "exp_manager.resume_if_exists=true",
    ]
    start_s = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        while len(saved_checkpoints(log_dir / "checkpoints")) < 2 or not _told_saves(log_dir):
            if process.poll() is not None or time.perf_counter() - start_s > _TIMEOUT_S:
                process.terminate()
                raise SystemExit(f"not enough saves: see {log_dir / 'nemo.log'}")
            time.sleep(_POLL_S)
        process.kill()  # its ranks end with it
    subprocess.run(argv, stdout=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=True)
    return _figures(log_dir)


def _told_saves(log_dir: Path) -> bool:
    return sum(event["event"] == "saved" for event in read_events(log_dir)) >= _SAVES_BEFORE


def _figures(log_dir: Path) -> dict[str, float]:
    events = read_events(log_dir)
    ready = [event["spent_s"] for event in events if event["event"] == "training"]
    saves = [event for event in events if event["event"] == "saved"]
    spent = account(events)
    if spent is None or len(ready) != 2:
        raise SystemExit(f"expected two starts with their seconds, see {log_dir / 'events.jsonl'}")
    return {
        "first_start": ready[0]["start"],
        "start_of_resume": ready[1]["start"],
        "restore": ready[1]["restore"],
        "save_blocks": spent.seconds["save"] / len(saves),
        "save_until_whole": median(save["took_s"] for save in saves),
    }


def _simulated(found: dict[str, list[float]]) -> list[Figure]:
    """Simulate 1,024 GPUs with these costs, with the defaults' assumptions about noticing and queues."""
    settings = FailureSettings(
        start_s=median(found["start_of_resume"]) + median(found["restore"]),
        save_blocks_s=median(found["save_blocks"]),
        save_s=median(found["save_until_whole"]),
    )
    costs = failure_costs(settings, _DEVICES)
    steps = best_interval_steps(costs, _STEP_S)
    runs = [simulated_ettr(costs, steps * _STEP_S, seed) for seed in range(1, 6)]
    hung = outlook(replace(settings, notice_s=1800.0), _DEVICES, _STEP_S)["ettr"]
    large = outlook(replace(settings, start_s=300.0, save_s=60.0, save_blocks_s=5.0), _DEVICES, _STEP_S)["ettr"]
    closed, start_s = expected_ettr(costs, steps * _STEP_S), largest_start_s(costs, steps * _STEP_S, TARGET_ETTR)
    values = {
        "simulated_ETTR_of_1024_GPUs": (median(runs), "share", min(runs), max(runs), TARGET_ETTR),
        "the_same_in_closed_form": (closed, "share", closed, closed),
        "steps_of_10_s_between_its_saves": (float(steps), "steps", float(steps), float(steps)),
        "start_that_97_percent_bears": (start_s, "s", start_s, start_s),
        "ETTR_where_a_start_takes_300_s_and_a_save_blocks_5_of_60_s": (large, "share", large, large),
        "ETTR_where_each_failure_is_noticed_after_1800_s": (hung, "share", hung, hung),
    }
    return [Figure(f"goodput/{name}", *rest) for name, rest in values.items()]


if __name__ == "__main__":
    main()

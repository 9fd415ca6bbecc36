"""A user's waiting time: for help, for a mistake in the settings, for the first step of the quickstart, and for a save.

python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.small_llama import SMALL
from benchmarks.turns import Trainer
from nemo_bt.data.synthetic import write_dataset

_RUNS = 3
_SAVES = 5
_SAVE_EVERY = 4
_TARGETS_S = {"first_step": 25.0, "save": 1.0}
_TIMEOUT_S = 180
_POLL_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/startup"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    write_dataset(args.folder / "data")
    times: dict[str, list[float]] = {"help": [], "wrong_setting": [], "first_step": []}
    for run in range(_RUNS):
        times["help"].append(_command_s(["--help"], expected_status=0))
        times["wrong_setting"].append(_command_s(["train", "model.global_batch_size=many"], expected_status=2))
        times["first_step"].append(_first_step_s(args.folder / "data", args.folder / f"run{run}"))
    times["save"] = _saves(args.folder)
    figures = [
        Figure(f"startup/{name}", median(values), "s", min(values), max(values), _TARGETS_S.get(name))
        for name, values in times.items()
    ]
    print(f"wrote {write_results('startup', args.host_kind, 'python -m benchmarks.startup', figures)}")


def _command_s(argv: list[str], expected_status: int) -> float:
    start_s = time.perf_counter()
    status = subprocess.run(
        [sys.executable, "-m", "nemo_bt", *argv], capture_output=True, timeout=_TIMEOUT_S
    ).returncode
    if status != expected_status:
        raise SystemExit(f"nemo-bt {' '.join(argv)}: expected status {expected_status}, got {status}")
    return time.perf_counter() - start_s


def _first_step_s(data: Path, run: Path) -> float:
    """Time the way from the command to the first logged step of the quickstart's configuration."""
    argv = [
        "--config-name=quickstart",
        f"exp_manager.explicit_log_dir={run}",
        f"model.data.train={data / 'train.parquet'}",
        f"+model.data.validation.held_out={data / 'validation.parquet'}",
        f"model.tokenizer.type={data / 'tokenizer'}",
        f"model.data.cache_dir={run}-cache",
        "trainer.log_every_n_steps=1",
        "trainer.max_steps=2",
    ]
    start_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "nemo_bt", "train", *argv], stdout=subprocess.DEVNULL)
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and '"step": 1' in metrics.read_text()):
        if process.poll() is not None or time.perf_counter() - start_s > _TIMEOUT_S:
            process.terminate()
            raise SystemExit(f"no first step: see {run / 'nemo.log'}")
        time.sleep(_POLL_S)
    first_step_s = time.perf_counter() - start_s
    if process.wait(timeout=_TIMEOUT_S):
        raise SystemExit(f"training failed: see {run / 'nemo.log'}")
    return first_step_s


def _saves(folder: Path) -> list[float]:
    """Time what each save adds to the steps from it to the next one, in turns with a run that never saves."""
    data = folder / "data"
    num_steps = _SAVES * _SAVE_EVERY + 1
    small_llama.make_model(SMALL, data / "tokenizer", folder / "model", seed=1)
    trainers = {}
    for name, every in (("saves", _SAVE_EVERY), ("never", 0)):
        overrides = small_llama.training_overrides(folder / "model", data / "train.parquet", folder / name, num_steps)
        overrides += [
            f"exp_manager.checkpoint_callback_params.every_n_train_steps={every}",
            "model.data.tokens_per_micro_batch=4096",
        ]
        trainers[name] = Trainer("benchmarks.nemo_bt_steps", overrides, 1, folder / f"{name}.log")
    for trainer in trainers.values():
        trainer.ready()
    added = [trainers["saves"].step() - trainers["never"].step() for _ in range(num_steps - 1)]
    for trainer in trainers.values():
        trainer.end()
    # A save begins the step behind a multiple of _SAVE_EVERY; the first of those steps is number _SAVE_EVERY + 1.
    first = _SAVE_EVERY - 1
    return [sum(added[i : i + _SAVE_EVERY]) for i in range(first, len(added) - _SAVE_EVERY + 1, _SAVE_EVERY)]


if __name__ == "__main__":
    main()

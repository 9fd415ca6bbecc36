"""A user's waiting time: for help, for a mistake in the settings, for figures of tokenised data, for the first step of
the quickstart on two ranks, and for a save.

python -m benchmarks.startup [--before REVISION]

With a revision of git the same commands run with its code too, in turns, and the ratio is told.
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
from benchmarks.results_file import RESULTS, Figure, write_results
from benchmarks.small_llama import SMALL
from benchmarks.turns import Trainer
from nemo_bt.data.synthetic import write_dataset

_RUNS = 5
_SAVES = 5
_SAVE_EVERY = 4
_TARGETS_S = {"help": 0.3, "wrong_setting": 1.5, "data_stats": 3.0, "first_step": 12.0, "save": 1.0}
_TIMEOUT_S = 180
_POLL_S = 0.02
_REPO = RESULTS.parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/startup"))
    parser.add_argument("--before", help="a revision of git to compare with")
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    folder = args.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    write_dataset(folder / "data")
    trees = {"now": _REPO}
    if args.before:
        trees["before"] = _unpacked(args.before, folder / "before")
    times: dict[str, dict[str, list[float]]] = {tree: {} for tree in trees}
    for run in range(_RUNS + 1):
        for tree, repo in trees.items():
            for name, found_s in _waits(repo, folder / "data", folder / tree / f"run{run}", folder / f"{tree}-cache"):
                if run:  # the first one compiles modules and tokenises
                    times[tree].setdefault(name, []).append(found_s)
    figures = [_figure(name, "s", values) for name, values in times["now"].items()]
    for name, values in times.get("before", {}).items():
        ratios = [now_s / before_s for now_s, before_s in zip(times["now"][name], values, strict=True)]
        figures += [_figure(f"{name}_before", "s", values), _figure(f"{name}_over_before", "ratio", ratios)]
    figures.append(_figure("save", "s", _saves(folder)))
    command = "python -m benchmarks.startup" + (f" --before {args.before}" if args.before else "")
    print(f"wrote {write_results('startup', args.host_kind, command, figures)}")


def _figure(name: str, unit: str, values: list[float]) -> Figure:
    return Figure(f"startup/{name}", median(values), unit, min(values), max(values), _TARGETS_S.get(name))


def _unpacked(revision: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(_REPO), "archive", revision], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def _waits(repo: Path, data: Path, run: Path, cache: Path) -> list[tuple[str, float]]:
    """Time one of each command with the code of a tree."""
    sets = [f"model.data.train={data / 'train.parquet'}", f"model.tokenizer.type={data / 'tokenizer'}"]
    sets.append(f"model.data.cache_dir={cache}")
    return [
        ("help", _command_s(repo, ["--help"], expected_status=0)),
        ("wrong_setting", _command_s(repo, ["train", "model.global_batch_size=many"], expected_status=2)),
        ("data_stats", _command_s(repo, ["data", "stats", *sets], expected_status=0)),
        (
            "first_step",
            _first_step_s(repo, [*sets, f"+model.data.validation.held_out={data / 'validation.parquet'}"], run),
        ),
    ]


def _command_s(repo: Path, argv: list[str], expected_status: int) -> float:
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "nemo_bt", *argv]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=repo, env=_env(repo))
    if result.returncode != expected_status:
        raise SystemExit(f"nemo-bt {' '.join(argv)}: expected status {expected_status}, got {result.stderr}")
    return time.perf_counter() - start_s


def _env(repo: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(repo)}


def _first_step_s(repo: Path, sets: list[str], run: Path) -> float:
    """Time the way from the command to the first logged step of the quickstart's configuration on two ranks."""
    argv = ["--config-name=quickstart", f"exp_manager.explicit_log_dir={run}", *sets]
    argv += ["trainer.devices=2", "trainer.log_every_n_steps=1", "trainer.max_steps=2"]
    command = [sys.executable, "-m", "nemo_bt", "train", *argv]
    start_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=repo, env=_env(repo))
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

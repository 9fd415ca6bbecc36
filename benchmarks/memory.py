"""Resident memory, open files, threads and children of a rank over thousands of steps, with saves and validations.

python -m benchmarks.memory [--steps 5000]

It takes about five minutes on two cores.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.results_file import Figure, write_results
from tests.support.faults import overrides_of, start
from tests.support.preferences import write_sets
from tests.support.runs import metrics

_SETTLED_STEP = 200


def sample(process: psutil.Process) -> dict[str, float]:
    with process.oneshot():
        return {
            "resident_bytes": process.memory_info().rss,
            "open_files": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(process.children()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nemo_bt-memory-") as folder:
        data = Path(folder)
        log_dir = Path(folder) / "run"
        write_sets(data, num_pairs=1000)
        often = ["trainer.log_every_n_steps=10", "trainer.val_check_interval=250"]
        saving = ["exp_manager.checkpoint_callback_params.every_n_train_steps=100"]
        overrides = [*overrides_of(data, log_dir), f"trainer.max_steps={args.steps}", *often, *saving]
        process = start([*overrides, "trainer.devices=1", "model.optim.name=adam"])
        samples: list[tuple[float, dict[str, float]]] = []
        while process.poll() is None:
            time.sleep(0.5)
            steps = metrics(log_dir, "step")
            try:
                if steps and steps[-1] < args.steps:
                    samples.append((steps[-1], sample(psutil.Process(process.pid))))
            except psutil.NoSuchProcess:
                break
        assert process.wait() == 0, process.stdout.read()
    settled = [values for step, values in samples if step > _SETTLED_STEP]
    figures = []
    for name in samples[0][1]:
        values = [of_moment[name] for of_moment in settled]
        unit = "bytes" if name == "resident_bytes" else "count"
        figures.append(Figure(f"memory/steps/{name}", statistics.median(values), unit, min(values), max(values)))
    half = len(settled) // 2
    for name in ("resident_bytes", "open_files"):
        early, late = (statistics.median(of[name] for of in part) for part in (settled[:half], settled[half:]))
        growth = late / early
        figures.append(
            Figure(f"memory/steps/{name}_second_half_over_first", growth, "ratio", growth, growth, target=1.02)
        )
    resident = [of_moment["resident_bytes"] for of_moment in settled]
    spread = max(resident) / min(resident)
    figures.append(Figure("memory/steps/resident_bytes_most_over_least", spread, "ratio", spread, spread, target=1.02))
    write_results("memory", f"cpu{os.cpu_count()}", f"python -m benchmarks.memory --steps {args.steps}", figures)


if __name__ == "__main__":
    main()

"""What it costs to compare what ranks hold alike: runs with and without, a step each in turns, and what a GPU reads.

python -m benchmarks.replica_digests

A second run without tells what the machine's noise makes of a ratio. For GPUs, a trace has the bytes that a rank holds;
a step touches each weight in forward, backward and update, and gradients and the optimizer's state twice, at the least.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles

from benchmarks.results_file import Figure, write_results
from benchmarks.turns import Trainer
from nemo_bt.config.run import TrainerSettings
from nemo_bt.data.synthetic import write_dataset
from tests.support.layouts import ZERO
from tests.support.phantom import missing, traced
from tests.support.preferences import write_sets
from tests.support.traced_runs import LLAMA_8B, Traced

_TARGET_SHARE = 0.01
_EVERY = TrainerSettings().compare_replicas_every_n_steps
_RUNS = {"without": 0, "with": _EVERY, "without again": 0}
_TRACED = {"plain_adam": [], "distributed_optimizer": ZERO}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/replica_digests"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    parser.add_argument("--turns", type=int, default=100)
    args = parser.parse_args()
    lacks = missing()
    if lacks:
        parser.error(lacks)
    shutil.rmtree(args.folder, ignore_errors=True)
    write_dataset(args.folder / "data")
    figures = _beside(args.folder, args.turns) + _inside(args.folder) + _of_gpus(args.folder)
    print(f"wrote {write_results('replica_digests', args.host_kind, 'python -m benchmarks.replica_digests', figures)}")


def _beside(folder: Path, turns: int) -> list[Figure]:
    """Train three times in turns, on two data-parallel ranks; a ratio's spread is that of its middle half."""
    trainers = {name: _trainer(folder, name, every, turns + 1) for name, every in _RUNS.items()}
    for trainer in trainers.values():
        trainer.ready()
    for turn in range(turns):
        # Who comes first changes, so that no run always follows the same one.
        for name in sorted(trainers, key=lambda name: (list(trainers).index(name) + turn) % len(trainers)):
            trainers[name].step()
    for trainer in trainers.values():
        trainer.end()
    without = trainers["without"].seconds[1:]
    step_s = median(without)
    figures = [Figure("replica_digests/dp2/step", step_s, "s", min(without), max(without))]
    for name in ("with", "without again"):
        ratios = [one / other for one, other in zip(trainers[name].seconds[1:], without, strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        key = f"replica_digests/dp2/{name.replace(' ', '_')}_over_without/step_time_ratio"
        figures.append(Figure(key, middle, "ratio", low, high, 1 + _TARGET_SHARE if name == "with" else None))
    return figures


def _trainer(folder: Path, name: str, every_n_steps: int, steps: int) -> Trainer:
    overrides = _overrides(folder, name, every_n_steps, steps)
    return Trainer("benchmarks.nemo_bt_steps", overrides, 2, folder / f"{name}.log")


def _overrides(folder: Path, name: str, every_n_steps: int, steps: int) -> list[str]:
    data = folder / "data"
    return [
        *("model=llama_quickstart", "model.num_layers=4", "model.hidden_size=256", "model.ffn_hidden_size=704"),
        f"exp_manager.explicit_log_dir={folder / name}",
        f"model.data.train={data / 'train.parquet'}",
        f"model.tokenizer.type={data / 'tokenizer'}",
        f"model.data.cache_dir={data / 'cache'}",
        *("model.global_batch_size=64", "model.data.tokens_per_micro_batch=2048"),
        *("trainer.devices=2", "trainer.accelerator=cpu", "trainer.limit_val_batches=0", f"trainer.max_steps={steps}"),
        *("trainer.max_epochs=100", f"trainer.compare_replicas_every_n_steps={every_n_steps}"),
    ]


def _inside(folder: Path) -> list[Figure]:
    """Time what compares inside a run, with its all-gather, as a share of each step."""
    output = folder / "shares.json"
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*ranks, "-m", "benchmarks.replica_step", str(output), *_overrides(folder, "inside", _EVERY, 60)]
    with (folder / "inside.log").open("w") as log:
        subprocess.run(
            command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=400, check=True
        )
    low, middle, high = quantiles(json.loads(output.read_text()), n=4)
    return [Figure("replica_digests/dp2/inside/share_of_step", middle, "share", low, high, _TARGET_SHARE)]


def _of_gpus(folder: Path) -> list[Figure]:
    """Trace Llama 8B of four layers, as a rank of eight: bytes that are compared over those that a step touches."""
    write_sets(folder / "traced")
    figures = []
    for name, extra in _TRACED.items():
        own = folder / name
        own.mkdir()
        step = traced(Traced([*LLAMA_8B, *extra], num_ranks=8), folder / "traced", own).steps[-1]
        weights, gradients, optimizer = (step.holders[part] for part in ("weights", "gradients", "optimizer"))
        compared = (weights if extra else weights + gradients + optimizer) / _EVERY
        touched = 3 * weights + 2 * gradients + 2 * optimizer
        of_gpu = {"bytes_compared_in_a_step": (compared, "bytes", None)}
        of_gpu["share_of_what_a_step_touches"] = (compared / touched, "share", _TARGET_SHARE)
        figures += [
            Figure(f"replica_digests/{name}_of_8_gpus/{key}", value, unit, value, value, target)
            for key, (value, unit, target) in of_gpu.items()
        ]
    return figures


if __name__ == "__main__":
    main()

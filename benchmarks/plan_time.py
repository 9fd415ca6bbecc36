"""Seconds of a step that the planner foresees with constants measured here, over those of real runs.

python -m benchmarks.plan_time

The model is a Llama of 8 layers of width 512 in fp32 on CPU ranks, on pairs of random length. One rank has all threads;
two have half of them each. Constants are measured before each run. Figures are medians over steps, with their spread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.random_set import make_random_set
from benchmarks.results_file import Figure, write_results
from nemo_bt.config.plan import ClusterSettings
from nemo_bt.data.inspect import open_sets
from nemo_bt.observability.terminal import Terminal
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.streams import pairs_of_set, steps_of
from nemo_bt.planning.time import step_time
from nemo_bt.pretrained.resolve import find_pretrained
from tests.support.layouts import CP2, PP2, SP, TP2, ZERO, common
from tests.support.recorded import settings_of
from tests.support.runs import metrics

_STEPS = 9
_LEFT_OUT = 3
_MODEL = [
    "model=llama_4x256",
    *("model.num_layers=8", "model.hidden_size=512", "model.ffn_hidden_size=1376"),
    *("model.data.tokens_per_micro_batch=1024", f"trainer.max_steps={_STEPS}", "trainer.limit_val_batches=0"),
]
_LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "one rank": (1, []),
    "recompute": (
        1,
        [f"model.activations_checkpoint_{x}" for x in ("granularity=full", "method=uniform", "num_layers=1")],
    ),
    "DP2 distributed optimizer": (2, ZERO),
    "TP2": (2, TP2),
    "TP2 SP": (2, [*TP2, *SP]),
    "PP2": (2, PP2),
    "CP2": (2, CP2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/plan_time"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    folder = make_random_set(args.folder, 200, 200)
    figures = []
    for name, (num_ranks, extra) in _LAYOUTS.items():
        log_dir = folder / name
        overrides = [*common(folder, log_dir, num_ranks), *_MODEL, *extra]
        cluster = _cluster(folder, num_ranks)  # just before, as others use the machine too
        command = [sys.executable, "-m", "nemo_bt", "train", *overrides]
        subprocess.run(command, check=True, timeout=300, env=_with_threads(num_ranks))
        planned_s = _planned_s(log_dir, cluster)
        ratios = [planned_s / seconds for seconds in metrics(log_dir, "train/step_time_s")[_LEFT_OUT:]]
        median = statistics.median(ratios)
        figures.append(Figure(f"plan_time/{name}", median, "planned over measured", min(ratios), max(ratios)))
    print(f"wrote {write_results('plan_time', args.host_kind, 'python -m benchmarks.plan_time', figures)}")


def _cluster(folder: Path, num_ranks: int) -> ClusterSettings:
    name = f"ranks{num_ranks}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    options = ["--name", name, "--rows", "2048", "--head-size", "64", "--folder", str(folder)]
    command += ["-m", "benchmarks.cluster", *options]
    subprocess.run(command, check=True, timeout=300, env=_with_threads(num_ranks))
    return ClusterSettings(**yaml.safe_load((folder / f"{name}.yaml").read_text()))


def _with_threads(num_ranks: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str((os.cpu_count() or 1) // num_ranks or 1)}


def _planned_s(log_dir: Path, cluster: ClusterSettings) -> float:
    settings = settings_of(log_dir)
    architecture = find_pretrained(str(next((log_dir / "checkpoints").glob("*.nemo")))).architecture
    sets, _ = open_sets(settings, Terminal(None))
    steps = steps_of(settings, pairs_of_set(sets["train"], settings), _STEPS, architecture.hidden_size)
    stages = range(settings.model.pipeline_model_parallel_size)
    parameters = {stage: rank_parameters(architecture, settings.model, stage) for stage in stages}
    return step_time(settings, architecture, cluster, parameters, steps).total


if __name__ == "__main__":
    main()

"""Everything that is measured on a GPU, part by part; each part leaves its figures in benchmarks/results/ when it ends.

python -m benchmarks.gpu --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet

Parts: attention, rewards, sharing, vs_trl, 8b, curves. `--dry-run` runs the same on a CPU, small and once, without FP8,
and writes no results: figures mean nothing there.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import torch

from benchmarks import gpu_attention, gpu_curves, gpu_model, gpu_training
from benchmarks.gpu_host import Host, clocks
from benchmarks.results_file import write_results

PARTS = {
    "attention": gpu_attention.measure,
    "rewards": gpu_model.measure_rewards,
    "sharing": gpu_model.measure_sharing,
    "vs_trl": gpu_training.measure_vs_trl,
    "8b": gpu_training.measure_8b,
    "curves": gpu_curves.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    if not (args.dry_run or torch.cuda.is_available()):
        raise SystemExit("benchmarks.gpu: expected a GPU, found none. --dry-run runs it on a CPU.")
    shutil.rmtree(args.folder, ignore_errors=True)
    for part in args.only:
        start_s = time.monotonic()
        host = Host(args.data.resolve(), args.folder.resolve() / part, args.dry_run)
        host.folder.mkdir(parents=True)
        before = clocks()
        figures = PARTS[part](host)
        took_s = time.monotonic() - start_s
        if host.is_dry:
            print(f"{part}: {len(figures)} figures in {took_s:.0f} s", flush=True)
        else:
            command = f"python -m benchmarks.gpu --data data --only {part}"
            path = write_results(f"gpu_{part}", host.kind, command, figures, before)
            print(f"{part}: {took_s:.0f} s, wrote {path}", flush=True)


if __name__ == "__main__":
    main()

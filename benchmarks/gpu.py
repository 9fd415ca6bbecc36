"""Everything that is measured on a GPU, part by part; each part leaves its figures in benchmarks/results/ when it ends.

python -m benchmarks.gpu --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet

Each part is a process of its own, which leaves the GPU's memory to the next; when one fails, the others still run.
`--dry-run` runs the same on a CPU, small and once, without FP8, and writes no results, as figures mean nothing there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import gpu_attention, gpu_curves, gpu_model, gpu_training
from benchmarks.gpu_machine import Host, clocks
from benchmarks.results_file import write_results

PARTS = {
    "attention": gpu_attention.measure,
    "attention_flex": gpu_attention.measure_flex,
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
    if len(args.only) > 1:
        alone = [sys.executable, "-m", "benchmarks.gpu", "--data", str(args.data), "--folder", str(args.folder)]
        alone += ["--dry-run"] if args.dry_run else []
        failed = [part for part in args.only if subprocess.run([*alone, "--only", part]).returncode]
        raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)
    _measure(args.only[0], Host(args.data.resolve(), args.folder.resolve() / args.only[0], args.dry_run))


def _measure(part: str, host: Host) -> None:
    start_s = time.monotonic()
    before = clocks()
    shutil.rmtree(host.folder, ignore_errors=True)
    host.folder.mkdir(parents=True)
    figures = PARTS[part](host)
    took_s = time.monotonic() - start_s
    if host.is_dry:
        print(f"{part}: {len(figures)} figures in {took_s:.0f} s", flush=True)
        return
    command = f"python -m benchmarks.gpu --data data --only {part}"
    path = write_results(f"gpu_{part}", host.kind, command, figures, before)
    print(f"{part}: {took_s:.0f} s, wrote {path}", flush=True)


if __name__ == "__main__":
    main()

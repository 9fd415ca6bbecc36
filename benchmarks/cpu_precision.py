"""bf16-mixed beside fp32 on a CPU that multiplies in bf16: time, memory, losses and accuracy of SmolLM2-135M-Instruct.

python -m benchmarks.cpu_precision --data folder/with/hh_train.parquet

It needs what `make models` has prepared, and a CPU with AVX512-bf16 or AMX. Both runs start from the same head, see the
same pairs in the same order and take turns, a step each. About 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import torch

from benchmarks.real_model import BATCH_PAIRS, EVALUATED_PAIRS, accuracy, figure, make_classifier, training
from benchmarks.results_file import write_results
from benchmarks.rivals import OWN, Commands, in_turns

_PAIRS = 512
_SET = "hh"
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/cpu_precision"))
    parser.add_argument("--pairs", type=int, default=_PAIRS, help="of hh; another number writes no results")
    parser.add_argument("--evaluated-pairs", type=int, default=EVALUATED_PAIRS, help="of the validation set, at most")
    args = parser.parse_args()
    found = [name for name in _INSTRUCTIONS if torch.cpu.get_capabilities().get(name)]
    if not found:
        sys.exit(f"This CPU has none of {', '.join(_INSTRUCTIONS)}: bf16 is slower than fp32 here.")
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    model = args.folder / "model"
    make_classifier(model)
    commands: Commands = {}
    for run, precision in ((OWN, "32"), ("bf16", "bf16-mixed")):
        overrides, _, _ = training(args.data / f"{_SET}_train.parquet", args.pairs, model, args.folder / run)
        commands[run] = "benchmarks.nemo_bt_steps", [*overrides, f"trainer.precision={precision}"]
    trainers = in_turns(commands, 1, args.pairs // BATCH_PAIRS - 1, args.folder, "fp32 and bf16-mixed")
    fp32, bf16 = trainers[OWN], trainers["bf16"]
    losses = {run: _losses(args.folder / run) for run in commands}
    checkpoints = {run: next((args.folder / run / "checkpoints").glob("*.nemo")) for run in commands}
    figures = [
        figure(
            "cpu_precision/steps_per_second_ratio",
            [slow / fast for slow, fast in zip(fp32.seconds[1:], bf16.seconds[1:], strict=True)],
            "ratio",
            1.0,
        ),
        figure("cpu_precision/peak_memory_ratio", [bf16.peak_mb / fp32.peak_mb], "ratio"),
        figure(
            "cpu_precision/loss_difference",
            [abs(one - other) for one, other in zip(losses[OWN], losses["bf16"], strict=True)],
            "nats",
        ),
        *accuracy("cpu_precision/fp32", checkpoints[OWN], _SET, args, args.folder / "fp32_evaluated"),
        *accuracy("cpu_precision/bf16", checkpoints["bf16"], _SET, args, args.folder / "bf16_evaluated"),
    ]
    if args.pairs == _PAIRS:
        command = "python -m benchmarks.cpu_precision --data data"
        write_results("cpu_precision", f"cpu{os.cpu_count()}-{found[0]}", command, figures)
    else:
        print("\n".join(f"{f.name}: {f.value:.4g} {f.unit} ({f.min:.4g} to {f.max:.4g})" for f in figures))


def _losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["train/loss"] for record in records if "train/loss" in record]


if __name__ == "__main__":
    main()

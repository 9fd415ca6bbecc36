"""Steps of SmolLM2-135M-Instruct with large tensors in pages of 2 MiB, as nemo_bt has them, beside pages of 4 KiB.

python -m benchmarks.large_pages --data folder/with/hh_train.parquet

It needs what `make models` has prepared. Both trainers see the same pairs and take turns, a step each. About eight
minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from benchmarks.real_model import BATCH_PAIRS, figure, make_classifier, training
from benchmarks.results_file import write_results
from benchmarks.turns import Trainer

_STEPS = 8
_VARIABLE = "THP_MEM_ALLOC_ENABLE"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/large_pages"))
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    model = args.folder / "model"
    make_classifier(model)
    trainers = {}
    for pages, asked in (("small", "0"), ("large", "1")):
        folder = args.folder / pages
        overrides, _, _ = training(args.data / "hh_train.parquet", _STEPS * BATCH_PAIRS, model, folder)
        os.environ[_VARIABLE] = asked
        trainers[pages] = Trainer("benchmarks.nemo_bt_steps", overrides, 1, args.folder / f"{pages}.log")
        trainers[pages].ready()
    for _ in range(_STEPS - 1):
        print({pages: round(trainer.step(), 2) for pages, trainer in trainers.items()}, flush=True)
    for trainer in trainers.values():
        trainer.end()
    losses = [_losses(args.folder / pages) for pages in trainers]
    small, large = trainers.values()
    figures = [
        figure(
            "large_pages/step_time_over_small_pages",
            [one / other for one, other in zip(large.seconds[1:], small.seconds[1:], strict=True)],
            "ratio",
        ),
        figure("large_pages/peak_memory_over_small_pages", [large.peak_mb / small.peak_mb], "ratio"),
        figure("large_pages/loss_difference", [abs(a - b) for a, b in zip(*losses, strict=True)], "nats"),
    ]
    path = write_results("large_pages", f"cpu{os.cpu_count()}", "python -m benchmarks.large_pages --data data", figures)
    print(f"wrote {path}")


def _losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["train/loss"] for record in records if "train/loss" in record]


if __name__ == "__main__":
    main()

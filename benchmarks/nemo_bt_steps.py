"""One rank of nemo_bt's trainer, which runs a step at a time; `benchmarks.vs_trl` starts it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import lightning.pytorch as pl

from benchmarks.turns import Turns
from nemo_bt.config.load import load_settings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.checks import check_settings
from nemo_bt.training.train import train


class Report(pl.Callback):
    """Ends each step with a turn; a step is all time between two ends, so it includes reading its pairs."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.turns.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.turns.end_step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    rank = int(os.environ.get("RANK", 0))
    settings = load_settings("train", args.overrides)
    (settings.exp_manager.log_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    report = Report(Turns(args.address, rank))
    terminal = Terminal(sys.stdout if rank == 0 else None)
    train(settings, check_settings(settings), terminal, rank, callbacks=[report])


if __name__ == "__main__":
    main()

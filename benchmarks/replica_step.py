"""One rank of a run that times what compares ranks, as a share of each step; `benchmarks.replica_digests` starts it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from nemo_bt.config.load import load_settings
from nemo_bt.launching.local import current_rank
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.checks import check_settings
from nemo_bt.training.train import train

_WARM_UP = 3


class Shares(pl.Callback):
    """Times `Replicas` in each step, from one step's end to the next one's."""

    def __init__(self) -> None:
        self.compared_s = 0.0
        self.ended_s = 0.0
        self.shares: list[float] = []

    def on_fit_start(self, trainer: Any, *_: Any) -> None:
        """Stand around what compares."""
        (replicas,) = (one for one in trainer.callbacks if type(one).__name__ == "Replicas")
        for name in ("_compare", "_hear"):
            setattr(replicas, name, self._timed(getattr(replicas, name)))

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the step."""
        now_s = time.perf_counter()
        self.shares.append(self.compared_s / (now_s - self.ended_s))
        self.compared_s, self.ended_s = 0.0, now_s

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> None:
            start_s = time.perf_counter()
            function(*args)
            self.compared_s += time.perf_counter() - start_s

        return timed


def main(output: str, *overrides: str) -> None:
    settings = load_settings("train", overrides)
    (settings.exp_manager.log_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    shares, rank = Shares(), current_rank()
    train(settings, check_settings(settings), Terminal(None), rank, [shares])
    if rank == 0:
        Path(output).write_text(json.dumps(shares.shares[_WARM_UP:-1]))  # the last step compares all


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One rank of a run in which rank 1 misbehaves: failing_rank.py raise|hang|slow|late key=value ...

It fails or hangs in step 3, or takes a tenth of a second longer in each step, for work or for data.
"""

import sys
import time
from pathlib import Path
from typing import Any

from nemo_bt.config.load import load_settings
from nemo_bt.launching.local import current_rank
from nemo_bt.observability.events import telling_failure
from nemo_bt.observability.failure import report_failure
from nemo_bt.observability.terminal import Terminal, divert_output
from nemo_bt.training.checks import check_settings
from nemo_bt.training.train import train


def main(what: str, *overrides: str) -> None:
    settings = load_settings("train", overrides)
    log_dir, rank = Path(settings.exp_manager.explicit_log_dir), current_rank()
    log_dir.mkdir(parents=True, exist_ok=True)
    _, stderr = divert_output(log_dir / "nemo.log")
    terminal = Terminal(None, stderr)
    sys.excepthook = report_failure(rank, log_dir, terminal)
    import lightning.pytorch as pl

    class Fault(pl.Callback):
        def on_train_start(self, trainer: Any, *_: Any) -> None:
            if what == "late" and rank == 1:
                data = trainer.datamodule.data_sampler.datasets["train"]
                build = data.build
                data.build = lambda step: (time.sleep(0.3), build(step))[1]  # a thread, while the step before runs

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if what == "slow" and rank == 1:
                time.sleep(0.1)
            if trainer.global_step == 2 and rank == 1 and what in ("raise", "hang"):
                if what == "hang":
                    time.sleep(600)
                raise ArithmeticError("an error of rank 1")

    with telling_failure(log_dir, rank):
        train(settings, check_settings(settings), terminal, rank, [Fault()])


if __name__ == "__main__":
    main(*sys.argv[1:])

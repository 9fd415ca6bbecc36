"""One rank of several training runs in a row: a process that imports NeMo costs 5 s, so runs share it.

torchrun --nproc-per-node N -m tests.support.ranks runs.json

The file has a list of {port, config, overrides, checkpoint}, all of world size N.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from nemo_bt.config.load import load_settings
from nemo_bt.launching.local import current_rank
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.checks import check_settings
from nemo_bt.training.train import train
from tests.support.recorder import Recorder


def put_checkpoint(checkpoint: Path, folder: Path, damaged: bool = False) -> None:
    """Leave one checkpoint of an earlier run in `folder`, as if the run had been killed after it.

    A damaged one has another bit in the middle of its largest file.
    """
    target = folder / checkpoint.name
    if current_rank() == 0:
        shutil.copytree(checkpoint, folder / "copying")
        if damaged:
            largest = max((folder / "copying" / "weights").iterdir(), key=lambda path: path.stat().st_size)
            content = bytearray(largest.read_bytes())
            content[len(content) // 2] ^= 1
            largest.write_bytes(content)
        (folder / "copying").rename(target)
    deadline_s = time.monotonic() + 60
    while not target.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


class Ask(pl.Callback):
    """Asks the run to end in the validation of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if trainer.global_step == self.step and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def main() -> None:
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's store serves one rendezvous, not several
    for run in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(run["port"])
        config = Path(run["config"] or "train.yaml")
        settings = load_settings(config.stem, run["overrides"], str(config.parent) if run["config"] else None)
        checkpoints = Path(settings.exp_manager.explicit_log_dir) / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        if run["checkpoint"]:
            put_checkpoint(Path(run["checkpoint"]), checkpoints)
        if run["damaged"]:
            put_checkpoint(Path(run["damaged"]), checkpoints, damaged=True)
        print(f"run: {checkpoints.parent}", flush=True)
        terminal = Terminal(sys.stdout if current_rank() == 0 else None)
        rank = current_rank()
        callbacks = [Recorder(checkpoints.parent), *([Ask(run["asked_at"])] if run["asked_at"] and rank == 0 else [])]
        train(settings, check_settings(settings), terminal, rank, callbacks)


if __name__ == "__main__":
    main()

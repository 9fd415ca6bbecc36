"""Training with streams of two lengths under torch's profiler: how often the host waits for the device in a step.

python -m tests.support.profiled <dataset folder> <out.json> gpu|cpu
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.profiler import ProfilerActivity, profile

from nemo_bt.config.load import load_settings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.checks import check_settings
from nemo_bt.training.train import train
from tests.support.layouts import SMALL_LLAMA, common
from tests.support.runs import free_port

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")
"""Of the CUDA runtime, and what makes a number of a tensor: `.item()`, `bool(tensor)`, ..."""
BUDGETS_TOKENS = (4096, 130)
"""A step of 16 pairs in few streams, and in many."""


class Profiled(pl.Callback):
    """Profiles two steps, after three that are not."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.num_streams = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            self.profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self.profile.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step > 3:
            self.num_streams += len(trainer.datamodule.data_sampler.last.streams)
        if trainer.global_step == 5:
            self.profile.__exit__(None, None, None)
            self.waits.update(event.name for event in self.profile.events() if event.name in WAITS)


def main() -> None:
    dataset, out, accelerator = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    found = []
    for number, budget in enumerate(BUDGETS_TOKENS):
        log_dir = out.parent / f"profiled-{number}"
        (log_dir / "checkpoints").mkdir(parents=True)
        overrides = [
            *common(dataset, log_dir, 1),
            *SMALL_LLAMA,
            f"trainer.accelerator={accelerator}",
            "trainer.precision=bf16-mixed",
            "trainer.max_steps=6",
            "trainer.log_every_n_steps=100",
            "trainer.limit_val_batches=0",
            f"model.data.tokens_per_micro_batch={budget}",
        ]
        settings, profiled = load_settings("train", overrides), Profiled()
        train(settings, check_settings(settings), Terminal(None), 0, callbacks=[profiled])
        found.append({"streams": profiled.num_streams, "waits": profiled.waits})
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "RANK": "0", "WORLD_SIZE": "1"}
    os.environ["LOCAL_RANK"] = "0"
    main()

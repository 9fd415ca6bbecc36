"""A run on a GPU, measured as a trace counts it: most bytes by phase of each step, and what has the host wait.

python -m tests.support.measured <folder with settings.yaml> <out.json> <steps>
"""

import json
import sys
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from nemo_bt.config.load import load_settings
from nemo_bt.launching.signals import StopRequest
from nemo_bt.observability.terminal import Terminal
from nemo_bt.phantom.places import places
from nemo_bt.phantom.watch import Done, follow
from nemo_bt.training.train import train


class Measured(pl.Callback):
    """Measures each step, and ends the run after the last.

    Attributes:
        steps: of each step `peaks`, bytes by phase, and `waits`, times by phase and place.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.steps: list[dict[str, Any]] = []
        self.peaks: dict[str, int] = {}
        self.waits: Counter[tuple[str, str]] = Counter()
        self._phase = "build"

    @property
    def phase(self) -> str:
        """Part of the step that goes on."""
        return self._phase

    @phase.setter
    def phase(self, name: str) -> None:
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        self._phase = name

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        follow(trainer, self)
        warnings.showwarning = self._warned
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        self.phase = "load"
        self.peaks.clear()

    def _warned(self, message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            self.waits[self.phase, next(iter(places(1)), "")] += 1

    def on_train_batch_start(self, *_: Any) -> None:
        self.phase = "step"

    def on_train_batch_end(self, *_: Any) -> None:
        self.phase = "load"
        waits = [[phase, place, count] for (phase, place), count in self.waits.items()]
        self.steps.append({"peaks": dict(self.peaks), "waits": waits})
        self.peaks.clear()
        self.waits.clear()
        if len(self.steps) == self.num_steps:
            raise Done


def main() -> None:
    folder, out, num_steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    measured = Measured(num_steps)
    request = StopRequest(limit_s=None, ends_on_sigterm=False)
    with suppress(Done):
        train(load_settings("settings", config_dir=str(folder)), None, Terminal(None), 0, [measured], request)
    out.write_text(json.dumps(measured.steps))


if __name__ == "__main__":
    main()

"""The machine of the GPU benchmarks: sizes that fit, repetitions and clocks, and small sizes for a dry run on a CPU."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.results_file import Figure
from benchmarks.small_llama import SMALL, Size

LLAMA_1B = Size(16, 2048, 8192, 32, 8, vocab=128_256)
_MOST_LAYERS_8B = {130: 16, 70: 8, 40: 4}
"""Least GiB of memory -> layers that train in it."""


@dataclass(frozen=True)
class Host:
    """A machine and what is measured on it.

    Args:
        data: folder with hh_train.parquet and alpaca_eval_train.parquet.
        folder: folder into which runs write.
        is_dry: whether everything runs once, on a CPU and small, so that no figure means anything.
    """

    data: Path
    folder: Path
    is_dry: bool

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return torch.device("cpu" if self.is_dry else "cuda")

    @property
    def kind(self) -> str:
        """Name of the GPU's kind, such as h200."""
        return "dry" if self.is_dry else torch.cuda.get_device_name().removeprefix("NVIDIA ").split()[0].lower()

    @property
    def memory_gib(self) -> float:
        """Memory of the GPU in GiB."""
        return 0.0 if self.is_dry else torch.cuda.get_device_properties(0).total_memory / 2**30

    @property
    def repetitions(self) -> int:
        """Repetitions of everything that is timed."""
        return 1 if self.is_dry else 5

    @property
    def size_1b(self) -> Size:
        """Shape of Llama 3.2 1B."""
        return SMALL if self.is_dry else LLAMA_1B

    def size_8b(self, share: float = 1.0) -> Size:
        """Give as many layers of Llama 3 8B's shape as train here, or a share of them."""
        if self.is_dry:
            return Size(2 if share == 1.0 else 1, 64, 160, 4, 2)
        layers = next(layers for gib, layers in _MOST_LAYERS_8B.items() if self.memory_gib >= gib)
        return Size(int(layers * share), 4096, 14336, 32, 8, vocab=128_256)

    @property
    def overrides(self) -> list[str]:
        """Overrides for nemo-bt train on this machine."""
        return [f"trainer.accelerator={'cpu' if self.is_dry else 'gpu'}", "trainer.precision=bf16-mixed"]

    @property
    def has_fp8(self) -> bool:
        """Whether the GPU computes in FP8."""
        return not self.is_dry and torch.cuda.get_device_capability() >= (8, 9)

    def seconds(self, function: Callable[[], object], calls: int = 1) -> list[float]:
        """Time each repetition, after one that is not counted; each time is the mean of several calls."""
        found = []
        for _ in range(self.repetitions + 1):
            self.wait()
            start_s = time.perf_counter()
            for _ in range(calls):
                function()
            self.wait()
            found.append((time.perf_counter() - start_s) / calls)
        return found[1:]

    def wait(self) -> None:
        """Wait until the device has done its work."""
        if not self.is_dry:
            torch.cuda.synchronize()


def clocks() -> dict[str, str]:
    """Read the clocks of the GPU; none is set."""
    names = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={names}", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(names.split(","), answer.stdout.splitlines()[0].split(", "), strict=True))


def spread(name: str, values: list[float], unit: str, target: float | None = None) -> Figure:
    """Make a figure of repetitions."""
    return Figure(name, median(values), unit, min(values), max(values), target)

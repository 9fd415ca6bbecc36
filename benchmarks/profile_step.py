"""Where the time of a step goes: forward and backward beside their matrix products, the optimizer, and the rest.

python -m benchmarks.profile_step --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet [--set hh] [--real]

--real takes SmolLM2-135M-Instruct, which `make models` has prepared, in the place of a small Llama. The first steps are
timed as they are; each later one runs under torch's profiler, which costs time of its own and counts the operations of
matrix products. What the cores can do is measured behind each of these: a product of 2,048 x 2,048 matrices.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import real_model, small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.small_llama import SMALL
from nemo_bt.config.load import load_settings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.checks import check_settings
from nemo_bt.training.train import train

_OUTSIDE_TARGET = 0.03
_PEAK_TARGET = 0.75
_ROWS = 12
_SIZE = 2048
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


@dataclass(frozen=True)
class Steps:
    """Numbers of steps: of those before anything is timed, of timed ones, and of profiled ones."""

    warm_up: int
    timed: int
    profiled: int

    @property
    def num(self) -> int:
        """All of them."""
        return self.warm_up + self.timed + self.profiled


_SMALL = Steps(3, 12, 4)
_REAL = Steps(1, 4, 3)


@dataclass
class Step:
    """One step: seconds of all of it, of forward and backward, and of the optimizer."""

    all_s: float = 0.0
    model_s: float = 0.0
    optimizer_s: float = 0.0
    operators_us: Counter[str] = field(default_factory=Counter)
    product_flops: int = 0
    peak_flops_per_s: float = 0.0


class Clock(pl.Callback):
    """Times steps from end to end, and their parts inside Megatron's schedule and optimizer."""

    def __init__(self, steps: Steps) -> None:
        self.numbers = steps
        self.steps: list[Step] = []
        self.now = Step()
        self.profile: Any = None

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Wrap a function, so that its time counts as a part of the step."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start_s = time.perf_counter()
            result = function(*args, **kwargs)
            setattr(self.now, part, getattr(self.now, part) + time.perf_counter() - start_s)
            return result

        return wrapper

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Wrap the functions that are timed."""
        from megatron.core.optimizer import MegatronOptimizer
        from nemo.lightning.megatron_parallel import MegatronStep

        MegatronStep.__call__ = self.timed(MegatronStep.__call__, "model_s")
        for optimizer in (c for c in _subclasses(MegatronOptimizer) if "step" in vars(c)):
            optimizer.step = self.timed(optimizer.step, "optimizer_s")  # type: ignore[attr-defined]
        self.start_s = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Record a step."""
        self.now.all_s = time.perf_counter() - self.start_s
        if self.profile:
            self.profile.__exit__(None, None, None)
            for event in self.profile.key_averages():
                self.now.operators_us[event.key] += event.self_cpu_time_total
                self.now.product_flops += event.flops if event.key in _PRODUCTS else 0
            self.now.peak_flops_per_s = peak_flops_per_s()
        self.steps.append(self.now)
        self.now = Step()
        if self.numbers.warm_up + self.numbers.timed <= trainer.global_step < self.numbers.num:
            self.profile = profile(activities=[ProfilerActivity.CPU], with_flops=True)
            self.profile.__enter__()
        self.start_s = time.perf_counter()


def peak_flops_per_s() -> float:
    """Measure the fastest of five products of large square matrices in fp32, on the threads of this process."""
    left, right = torch.randn(2, _SIZE, _SIZE)
    seconds = []
    for _ in range(5):
        start_s = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start_s)
    return float(2 * _SIZE**3 / min(seconds))


def _subclasses(of: type) -> set[type]:
    return {of}.union(*(_subclasses(c) for c in of.__subclasses__()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=("hh", "alpaca_eval"), default="hh")
    parser.add_argument("--real", action="store_true", help="SmolLM2-135M-Instruct, 16 pairs a step")
    parser.add_argument("--folder", type=Path, default=Path("runs/profile"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    model = args.folder / "model"
    run = args.folder / "run"
    file = args.data / f"{args.set}_train.parquet"
    numbers = _REAL if args.real else _SMALL
    if args.real:
        real_model.make_classifier(model)
        overrides, _, _ = real_model.training(file, numbers.num * real_model.BATCH_PAIRS, model, run)
    else:
        small_llama.make_tokenizer(args.data, args.folder / "tokenizer")
        small_llama.make_model(SMALL, args.folder / "tokenizer", model, seed=1)
        overrides = small_llama.training_overrides(model, file, run, numbers.num, seed=1)
        overrides.append("model.data.tokens_per_micro_batch=4096")
    settings = load_settings("train", overrides)
    (run / "checkpoints").mkdir(parents=True)
    clock = Clock(numbers)
    train(settings, check_settings(settings), Terminal(sys.stderr), 0, callbacks=[clock])
    name = f"profile_step_{args.set}{'_real' * args.real}"
    command = f"python -m benchmarks.profile_step --data data --set {args.set}{' --real' * args.real}"
    print(f"wrote {write_results(name, args.host_kind, command, figures_of(name, clock))}")


def figures_of(name: str, clock: Clock) -> list[Figure]:
    """Give shares of the timed steps; of the profiled ones, how near they came to the peak, and their operators."""
    timed = clock.steps[clock.numbers.warm_up :][: clock.numbers.timed]
    profiled = clock.steps[-clock.numbers.profiled :]
    peaks = [step.product_flops / step.model_s / step.peak_flops_per_s for step in profiled]
    products = [sum(step.operators_us[one] for one in _PRODUCTS) / step.operators_us.total() for step in profiled]
    figures = [
        _spread(f"{name}/outside", [1 - (s.model_s + s.optimizer_s) / s.all_s for s in timed], _OUTSIDE_TARGET),
        _spread(f"{name}/optimizer", [s.optimizer_s / s.all_s for s in timed]),
        _spread(f"{name}/of_matrix_peak", peaks, _PEAK_TARGET),
        _spread(f"{name}/in_products", products),
    ]
    operators = sum((step.operators_us for step in profiled), Counter[str]())
    figures += [
        _spread(f"{name}/self/{operator}", [spent_us / operators.total()])
        for operator, spent_us in operators.most_common(_ROWS)
    ]
    return figures


def _spread(name: str, values: list[float], target: float | None = None) -> Figure:
    return Figure(name, median(values), "fraction", min(values), max(values), target)


if __name__ == "__main__":
    main()

"""The time of a step inside forward, backward and optimizer, and outside, and its dearest operators.

python -m benchmarks.profile_step --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet [--set hh]

The first steps are timed as they are; later ones run under torch's profiler, which costs time of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
from torch.profiler import ProfilerActivity, profile

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.small_llama import SMALL
from nemo_bt.config.load import load_settings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.checks import check_settings
from nemo_bt.training.train import train

_WARM_UP = 3
_TIMED = 12
_PROFILED = 4
_OUTSIDE_TARGET = 0.03
_ROWS = 10


class Clock(pl.Callback):
    """Times whole steps, from end to end, and the part inside Megatron's schedule and optimizer."""

    def __init__(self) -> None:
        self.inside_s = 0.0
        self.steps_s: list[float] = []
        self.insides_s: list[float] = []
        self.profile: Any = None

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function, so that its time counts as inside."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start_s = time.perf_counter()
            result = function(*args, **kwargs)
            self.inside_s += time.perf_counter() - start_s
            return result

        return wrapper

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Wrap the functions that count as inside."""
        from megatron.core.optimizer import MegatronOptimizer
        from nemo.lightning.megatron_parallel import MegatronStep

        MegatronStep.__call__ = self.timed(MegatronStep.__call__)
        for optimizer in (c for c in _subclasses(MegatronOptimizer) if "step" in vars(c)):
            optimizer.step = self.timed(optimizer.step)  # type: ignore[attr-defined]
        self.start_s = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Record a step."""
        now_s = time.perf_counter()
        if _WARM_UP < trainer.global_step <= _WARM_UP + _TIMED:
            self.steps_s.append(now_s - self.start_s)
            self.insides_s.append(self.inside_s)
        if trainer.global_step == _WARM_UP + _TIMED:
            self.profile = profile(activities=[ProfilerActivity.CPU])
            self.profile.__enter__()
        if trainer.global_step == _WARM_UP + _TIMED + _PROFILED:
            self.profile.__exit__(None, None, None)
        self.inside_s = 0.0
        self.start_s = time.perf_counter()


def _subclasses(of: type) -> set[type]:
    return {of}.union(*(_subclasses(c) for c in of.__subclasses__()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=("hh", "alpaca_eval"), default="hh")
    parser.add_argument("--folder", type=Path, default=Path("runs/profile"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    small_llama.make_tokenizer(args.data, args.folder / "tokenizer")
    model = args.folder / "model"
    small_llama.make_model(SMALL, args.folder / "tokenizer", model, seed=1)
    file = args.data / f"{args.set}_train.parquet"
    num_steps = _WARM_UP + _TIMED + _PROFILED
    overrides = small_llama.training_overrides(model, file, args.folder / "run", num_steps, seed=1)
    settings = load_settings("train", [*overrides, "model.data.tokens_per_micro_batch=4096"])
    (args.folder / "run" / "checkpoints").mkdir(parents=True)
    clock = Clock()
    train(settings, check_settings(settings), Terminal(sys.stderr), 0, callbacks=[clock])
    _report(clock, args)


def _report(clock: Clock, args: argparse.Namespace) -> None:
    outside = [1 - inside / step for inside, step in zip(clock.insides_s, clock.steps_s, strict=True)]
    start = f"profile_step/{args.set}"
    spread = (min(outside), max(outside))
    figures = [Figure(f"{start}/outside", median(outside), "fraction", *spread, _OUTSIDE_TARGET)]
    events = clock.profile.key_averages()
    total_us = sum(event.self_cpu_time_total for event in events)
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:_ROWS]:
        share = event.self_cpu_time_total / total_us
        figures.append(Figure(f"{start}/self/{event.key}", share, "fraction", share, share))
    command = f"python -m benchmarks.profile_step --data data --set {args.set}"
    print(f"wrote {write_results(f'profile_step_{args.set}', args.host_kind, command, figures)}")


if __name__ == "__main__":
    main()

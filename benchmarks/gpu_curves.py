"""Loss of 200 steps in bf16 and FP8 on a GPU beside fp32 on a CPU, with the same weights, pairs and schedule."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from subprocess import Popen

from benchmarks import small_llama
from benchmarks.gpu_machine import Host, spread
from benchmarks.gpu_streams import tokenizer_and_model
from benchmarks.results_file import Figure
from tests.support.runs import metrics

_STEPS = 200
_LAST = 20
_BF16_TARGET = 0.01
_FP8_TARGET = 0.02
_FP8 = {
    "fp8_tensorwise": ["model.fp8=hybrid"],
    "fp8_delayed": ["model.fp8=hybrid", "model.fp8_recipe=delayed"],
    "fp8_blockwise": ["model.fp8=e4m3", "model.fp8_recipe=blockwise"],
}


def measure(host: Host) -> list[Figure]:
    """Measure the relative difference of the mean loss of the last 20 steps, and the largest of any 20 in a row."""
    on_gpu = {"bf16": [], **(_FP8 if host.has_fp8 else {})}
    reference = _start(host, "fp32_on_cpu", ["trainer.accelerator=cpu"])
    losses = {
        name: _losses(host, name, _start(host, name, [*host.overrides, *extra])) for name, extra in on_gpu.items()
    }
    expected = _losses(host, "fp32_on_cpu", reference)
    figures = [
        spread("gpu_curves/fp32_on_cpu/first_loss", [expected[0]], "nats"),
        spread("gpu_curves/fp32_on_cpu/final_loss", [mean(expected[-_LAST:])], "nats"),
    ]
    for name, found in losses.items():
        windows = range(0, len(expected), _LAST)
        differences = [_relative(found[i : i + _LAST], expected[i : i + _LAST]) for i in windows]
        target = _BF16_TARGET if name == "bf16" else _FP8_TARGET
        figures.append(spread(f"gpu_curves/{name}/final_loss_difference", [differences[-1]], "fraction", target))
        figures.append(spread(f"gpu_curves/{name}/largest_difference", [max(differences)], "fraction"))
    return figures


def _relative(found: list[float], expected: list[float]) -> float:
    return abs(mean(found) - mean(expected)) / mean(expected)


def _start(host: Host, name: str, extra: list[str]) -> Popen[bytes]:
    model = tokenizer_and_model(host)
    steps = 4 if host.is_dry else _STEPS
    file = host.data / "alpaca_eval_train.parquet"
    log_dir = _log_dir(host, name)
    overrides = [
        *small_llama.training_overrides(model, file, log_dir, steps),
        "model.global_batch_size=16",
        "model.optim.lr=3e-4",
        "model.data.tokens_per_micro_batch=8192",
        *extra,
    ]
    log_dir.parent.mkdir(parents=True, exist_ok=True)
    with log_dir.with_suffix(".txt").open("w") as output:
        command = [sys.executable, "-m", "nemo_bt", "train", *overrides]
        return Popen(command, stdout=output, stderr=output)


def _losses(host: Host, name: str, process: Popen[bytes]) -> list[float]:
    """Give the loss of every step, once the run has ended."""
    if process.wait():
        raise SystemExit(f"a run failed: see {_log_dir(host, name).with_suffix('.txt')}")
    return metrics(_log_dir(host, name), "train/loss")


def _log_dir(host: Host, name: str) -> Path:
    return host.folder / "curves" / name

"""What a step on a GPU does at every layout: where the host waits, what memory it takes, in which dtypes it computes.

`make test` traces six layouts, `make test-phantom` all of them.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.phantom.compiled import COMPILED
from nemo_bt.phantom.record import MICRO_BATCH, Record, Section
from nemo_bt.training.checks import run_architecture
from nemo_bt.training.compiler import compiled_parts
from tests.support.phantom import STEPS, Planned, messages_of, settings_of
from tests.support.traced_runs import MORE, QUICK

RUNS = QUICK | (MORE if os.environ.get("NEMO_BT_TEST_PHANTOM") else {})
_ANSWER = ("load", "synchronize", "nemo_bt/training/callbacks/graceful_stop.py answer")
WAITS = {
    _ANSWER: 1,  # for no kernel of the step's update
    ("step", "item", "megatron/core/distributed/finalize_model_grads.py finalize_model_grads"): 1,
    ("optimizer", "item", "megatron/core/optimizer/clip_grads.py get_grad_norm_fp32"): 1,
}
"""Where the host waits in a step that is not logged, by phase, kind, file and function."""

_NO_LOSS = ("step", "blocking_copy", "nemo/lightning/megatron_parallel.py forward")
_NORM = ("optimizer", "item", "megatron/core/optimizer/clip_grads.py get_grad_norm_fp32")
_PARTS = ("step", "item", "megatron/core/distributed/finalize_model_grads.py finalize_model_grads")
_DISPATCHER = "megatron/core/transformer/moe/token_dispatcher.py _maybe_dtoh_and_synchronize"
_COUNTED = ("forward", "synchronize", _DISPATCHER)
_OFFLOADED = ("optimizer", "synchronize", "megatron/core/optimizer/cpu_offloading/hybrid_optimizer.py step")
_HOST = "megatron/core/optimizer/cpu_offloading/hybrid_optimizer.py param_copy_back_gpu_hook"
_UNPINNED = ("optimizer", "unpinned_memory", _HOST)  # Megatron pins a weight in bf16, and widens it then
MORE_WAITS = {
    "TP2 SP PP2 first stage": {_NO_LOSS: 1},
    "PP2 VPP2": {_PARTS: 2, _NO_LOSS: 1},
    "PP2 VPP2 last stage": {_PARTS: 2},
    "FP8 but for the ends PP2": {_NO_LOSS: 1},
    "offload": {_OFFLOADED: 1, _ANSWER: 0},
    "offload half": {_OFFLOADED: 1, _ANSWER: 0},
    "offload precision-aware": {_OFFLOADED: 1, _ANSWER: 0, _UNPINNED: 27},
    "offload half precision-aware": {_OFFLOADED: 1, _ANSWER: 0, _UNPINNED: 14},
    "experts": {_COUNTED: 8},
    "experts balanced": {_COUNTED: 8},
    "experts EP2": {_NORM: 2, _COUNTED: 4},
    "experts EP2 TP2 SP": {_NORM: 2, _COUNTED: 4},
    "experts FP8 EP2": {_NORM: 2, _COUNTED: 4},
    "experts EP2 sharded": {_COUNTED: 2},
    "experts FP8 EP2 gathered": {_COUNTED: 2},
    "qwen3 moe": {_COUNTED: 8},
}
"""What more of them a layout has, or other numbers of them."""

OFF = {
    "fp32": "a trace does not know which kernel torch takes on a GPU for each segment",
    "local attention": "a trace does not know which kernel torch takes on a GPU for each segment",
}
"""Runs whose peak is not the plan's, and why."""

ROUTED = {"float32"}
"""The router's gradients."""
MORE_DTYPES = {
    "local attention": {"float32"},
    "FP8 but for the ends PP2": {"bfloat16"},
    "FP8 gathered but for the ends": {"bfloat16"},
    "LoRA FP8": {"bfloat16"},  # adapters
    "LoRA FP8 TP2 SP": {"bfloat16"},
    "experts FP8 EP2 gathered": {"float32", "bfloat16"},
    "experts FP8 EP2": {"float32", "bfloat16"},  # the router multiplies what is not in FP8
}
"""Dtypes of products beside those of the linear layers."""

RecordOf = Callable[[str], Record]


def last_step(record: Record) -> Section:
    """The last step, where all of them have been made."""
    assert record.failure is None
    assert len(record.steps) == STEPS
    return record.steps[-1]


@pytest.mark.parametrize("name", RUNS)
def test_where_the_host_waits(record_of: RecordOf, name: str) -> None:
    found: Counter[tuple[str, str, str]] = Counter()
    for wait in last_step(record_of(name)).waits:
        file, _, function = wait.places[0].partition(" ")
        found[wait.phase, wait.kind, f"{file.partition(':')[0]} {function}"] += wait.count
    assert found == Counter(WAITS | MORE_WAITS.get(name, {}))


@pytest.mark.parametrize("name", [name for name in RUNS if "experts" not in name and "moe" not in name])
def test_nothing_waits_in_a_micro_batch(record_of: RecordOf, name: str) -> None:
    """Experts wait for their numbers of tokens, which Megatron's dispatcher reads."""
    assert [wait for wait in last_step(record_of(name)).waits if wait.phase in MICRO_BATCH] == []


def _marked() -> list[Any]:
    marks = {name: [pytest.mark.xfail(reason=OFF[name], strict=True)] if name in OFF else [] for name in RUNS}
    return [pytest.param(name, marks=marks[name]) for name in RUNS]


@pytest.mark.parametrize("name", _marked())
def test_the_peak_is_the_plans(record_of: RecordOf, name: str, dataset: Path, tmp_path: Path) -> None:
    step = last_step(record_of(name))
    assert step.peak == pytest.approx(Planned(RUNS[name], dataset, tmp_path).memory.total, rel=0.03)


@pytest.mark.parametrize("name", RUNS)
def test_weights_gradients_and_optimizer_are_the_plans(
    record_of: RecordOf, name: str, dataset: Path, tmp_path: Path
) -> None:
    step = last_step(record_of(name))
    planned = Planned(RUNS[name], dataset, tmp_path).memory
    for part in ("weights", "gradients", "optimizer"):
        assert step.holders.get(part, 0) == pytest.approx(getattr(planned, part), rel=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_messages_are_those_of_the_plan(record_of: RecordOf, name: str, dataset: Path, tmp_path: Path) -> None:
    step = last_step(record_of(name))
    found, planned = messages_of(step), Planned(RUNS[name], dataset, tmp_path).messages
    assert found == planned


@pytest.mark.parametrize("name", RUNS)
def test_what_the_first_step_builds(record_of: RecordOf, name: str, dataset: Path, tmp_path: Path) -> None:
    """A node without a compiler trains what needs none."""
    found = {kernel for kernel in last_step(record_of(name)).launches if kernel.startswith(COMPILED)}
    settings = settings_of(RUNS[name], dataset, tmp_path)
    assert bool(found) == bool(compiled_parts(run_architecture(settings, None, num_tokens=1)))


@pytest.mark.parametrize("name", RUNS)
def test_in_which_dtypes_it_multiplies(record_of: RecordOf, name: str, dataset: Path, tmp_path: Path) -> None:
    settings = settings_of(RUNS[name], dataset, tmp_path)
    model = settings.model
    expected = {"float32"} if settings.trainer.precision == "32" else {"bfloat16"}
    if model.fp8:
        expected = {"Float8BlockwiseQTensor" if model.fp8_recipe == "blockwise" else "Float8Tensor"}
    found = {gemm.dtype for gemm in last_step(record_of(name)).gemms}
    assert found - MORE_DTYPES.get(name, ROUTED if "expert" in name or "moe" in name else set()) == expected


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("gemma2")])
def test_a_soft_cap_is_one_kernel_a_layer_and_stream(record_of: RecordOf, name: str) -> None:
    step = last_step(record_of(name))
    num_calls = 4 * len(step.streams)  # of four layers, each with its window
    passes = (f"{COMPILED} flex_attention{which}" for which in ("", "_backward"))
    assert [step.launches[name] for name in passes] == [num_calls, num_calls]
    assert sum(step.launches.values()) < 1500

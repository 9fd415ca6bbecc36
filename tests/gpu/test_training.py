"""Runs on a GPU beside those on a CPU: losses, checkpoints that go from one to the other, and how often the host waits.

In the dry run, on a CPU, everything but FP8 is trained, twice on the CPU.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gpu import ON_GPU, needs_engine, needs_gpu
from tests.support.layouts import SMALL_LLAMA, ZERO, checkpoint, common
from tests.support.runs import REPO, Run, metrics, run_together

STEPS, SAVED = 20, 10
BF16 = ["trainer.precision=bf16-mixed"]
SAVE = [f"exp_manager.checkpoint_callback_params.every_n_train_steps={SAVED}"]
RESUME = ["exp_manager.resume_if_exists=true"]
FULL = [f"model.activations_checkpoint_{name}" for name in ("granularity=full", "method=uniform", "num_layers=2")]
AWARE = [*ZERO, "model.optim.use_precision_aware_optimizer=true", "model.optim.exp_avg_dtype=bf16"]
IN_BF16 = {
    "bf16": [*BF16, *SAVE],
    "bf16 layers computed again": [*BF16, *FULL],
    "bf16 gradients as weights": [*BF16, "model.optim.grad_reduce_in_fp32=false"],
}
ON_GPU_ALONE = {
    "bf16 precision-aware optimizer": [*BF16, *AWARE],
    "bf16 optimizer in host memory": [*BF16, *ZERO, "model.optim.optimizer_cpu_offload=true"],
}
FP8 = {
    "fp8 tensorwise": ["model.fp8=hybrid"],
    "fp8 delayed": ["model.fp8=hybrid", "model.fp8_recipe=delayed"],
    "fp8 blockwise": ["model.fp8=e4m3", "model.fp8_recipe=blockwise"],
    "fp8 ends in bf16": ["model.fp8=hybrid", "model.first_last_layers_bf16=true"],
    "fp8 layers computed again": ["model.fp8=hybrid", *FULL],
}
TOLERANCE = {"bf16": 0.01, "fp8": 0.02}


MOVED = {"from CPU": "bf16 on CPU", "back on CPU": "bf16"}
"""Runs that go on from a checkpoint of another, elsewhere."""
GROUPS: dict[str, dict[str, list[str]]] = {
    "CPU": {"fp32 on CPU": [], "bf16 on CPU": [*BF16, *SAVE]},
    "bf16": {"fp32": [], **IN_BF16},
    "one": ON_GPU_ALONE,
    "fp8": {name: [*BF16, *extra] for name, extra in FP8.items()},
    "from CPU": {"from CPU": [*BF16, *RESUME]},
    "back on CPU": {"back on CPU": [*BF16, *RESUME]},
}
"""Runs of one launch each: what fails leaves the others."""


class Logs:
    """Folders of runs, launched when they are asked for."""

    def __init__(self, dataset: Path, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self.launched: set[str] = set()

    def of(self, name: str) -> Path:
        """A run's folder."""
        self._launch(next(group for group, runs in GROUPS.items() if name in runs))
        return self.folder / name

    def _launch(self, group: str) -> None:
        if group in self.launched:
            return
        self.launched.add(group)
        if group != "CPU":
            self._launch("CPU")
        is_on_cpu = group in ("CPU", "back on CPU") or not ON_GPU
        here = f"trainer.accelerator={'cpu' if is_on_cpu else 'gpu'}"
        runs = []
        if group == "CPU":
            first = [*common(self.dataset, self.folder / "initial", 1), *SMALL_LLAMA, "trainer.max_steps=1"]
            runs.append(Run(first))
        start = f"model.restore_from_path={checkpoint(self.folder / 'initial', 1)}"
        for name, extra in GROUPS[group].items():
            found = checkpoint(self.of(MOVED[name]), SAVED) if name in MOVED else None
            more = [start, f"trainer.max_steps={STEPS}", *extra, here]
            runs.append(Run([*common(self.dataset, self.folder / name, 1), *more], checkpoint=found))
        (self.folder / f"launch {group}").mkdir()
        run_together(1, runs, self.folder / f"launch {group}", timeout_s=580)


@pytest.fixture(scope="module")
def logs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Logs:
    return Logs(dataset, tmp_path_factory.mktemp("gpu"))


def test_fp32_has_the_losses_of_the_cpu(logs: Logs) -> None:
    expected = metrics(logs.of("fp32 on CPU"), "train/loss")
    assert len(expected) == STEPS
    assert metrics(logs.of("fp32"), "train/loss") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        *IN_BF16,
        *(pytest.param(name, marks=needs_gpu) for name in ON_GPU_ALONE),
        *(pytest.param(name, marks=needs_engine) for name in FP8),
    ],
)
def test_losses_follow_those_of_fp32_on_a_cpu(logs: Logs, name: str) -> None:
    expected, found = metrics(logs.of("fp32 on CPU"), "train/loss"), metrics(logs.of(name), "train/loss")
    assert len(found) == STEPS
    assert found[-1] == pytest.approx(expected[-1], rel=TOLERANCE[name.split()[0]])
    assert found != expected
    assert name == "bf16" or not name.startswith("fp8") or found != metrics(logs.of("bf16"), "train/loss")


@pytest.mark.parametrize(("moved", "stayed"), [("from CPU", "bf16 on CPU"), ("back on CPU", "bf16")])
def test_a_checkpoint_goes_on_elsewhere(logs: Logs, moved: str, stayed: str) -> None:
    """A bf16 number has 8 bits: 4e-3 from one to the next."""
    expected = metrics(logs.of(stayed), "train/loss")[SAVED:]
    assert metrics(logs.of(moved), "train/loss") == pytest.approx(expected, rel=4e-3)


def test_the_host_waits_as_often_whatever_the_number_of_streams(dataset: Path, tmp_path: Path) -> None:
    """Megatron asks for the number of pairs and the gradient's norm once a step; a stream asks for nothing."""
    command = [
        sys.executable,
        "-m",
        "tests.support.profiled",
        dataset,
        tmp_path / "out.json",
        "gpu" if ON_GPU else "cpu",
    ]
    result = subprocess.run(list(map(str, command)), cwd=REPO, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    few, many = json.loads((tmp_path / "out.json").read_text())
    assert few["streams"] < many["streams"] / 4
    assert few["waits"] == many["waits"]

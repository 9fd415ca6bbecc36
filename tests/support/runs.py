"""Start runs and read what they left: losses from metrics.jsonl, full weights from the checkpoint, with torch alone."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from nemo_bt.cpu import device as cpu

REPO = Path(__file__).parents[2]
PORTS = iter(random.sample(range(10_000, 30_000), 20_000))


@dataclass(frozen=True)
class Run:
    """Overrides of one training run, and the checkpoint that it finds when it starts."""

    overrides: list[str]
    checkpoint: Path | None = None
    damaged: Path | None = None
    """A newer checkpoint beside it, of which a bit is changed."""
    asked_at: int | None = None
    """Step whose validation gets SIGUSR1, on the first rank, in its second batch."""
    config: Path | None = None
    """A configuration file of its own; None is train.yaml."""

    @property
    def log_dir(self) -> Path:
        key = "exp_manager.explicit_log_dir="
        return Path(next(one.removeprefix(key) for one in self.overrides if one.startswith(key)))

    @property
    def name(self) -> str:
        """That of its log directory."""
        return self.log_dir.name

    def needs(self, other: "Run") -> bool:
        """Whether it starts from what the other leaves."""
        return any(f"{other.log_dir}/" in str(one) for one in (*self.overrides, self.checkpoint, self.damaged))


def run_together(num_ranks: int, runs: list[Run], folder: Path, timeout_s: int = 240) -> None:
    """Train each run in turn, all in one launch of `num_ranks` processes under torchrun."""
    spec = folder / f"runs-{num_ranks}.json"
    described = [
        {
            "port": free_port(),
            "config": run.config and str(run.config),
            "overrides": run.overrides,
            "checkpoint": run.checkpoint and str(run.checkpoint),
            "asked_at": run.asked_at,
            "damaged": run.damaged and str(run.damaged),
        }
        for run in runs
    ]
    spec.write_text(json.dumps(described))
    result = torchrun(num_ranks, "tests.support.ranks", spec, timeout_s)
    (folder / f"output-{num_ranks}.txt").write_text(result.stdout + result.stderr)
    assert result.returncode == 0, f"see {folder}/output-{num_ranks}.txt"


def torchrun(num_ranks: int, module: str, spec: Path, timeout_s: int = 240) -> subprocess.CompletedProcess[str]:
    """Run `python -m module spec` as one launch of `num_ranks` processes. After `timeout_s` each prints its stacks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    argv = [*command, "-m", module, str(spec)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    launcher = subprocess.Popen(argv, cwd=REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    late = ""
    try:
        stdout, stderr = launcher.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        late = f"not done after {timeout_s} s: the stacks of its threads are those of each rank then\n"
        for rank in psutil.Process(launcher.pid).children(recursive=True):
            rank.send_signal(signal.SIGABRT)
        stdout, stderr = launcher.communicate(timeout=60)
    return subprocess.CompletedProcess(argv, launcher.returncode, stdout, stderr + late)


def free_port() -> int:
    """A port that nothing listens on, below those that the kernel gives to outgoing connections: it stays free.

    A process is given each port once: a launch of many runs would meet the store that an earlier run left there.
    """
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port found")


def nemo_bt(*argv: str, timeout_s: int = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the nemo-bt command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "nemo_bt", *argv],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def convert(command: str, *argv: Any, timeout_s: int = 200, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a converter as a user does."""
    return subprocess.run(
        [sys.executable, "-m", f"converters.{command}", *map(str, argv)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        **options,
    )


def metrics(log_dir: Path, key: str) -> list[float]:
    """Every logged value of one metric, in order; none before the first is logged."""
    file = log_dir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record[key] for record in records if key in record]


def full_tensors(checkpoint: Path, prefix: str = "module.") -> dict[str, Tensor]:
    """The weights of a .nemo directory as whole tensors, whatever layout wrote them."""
    if not torch.cuda.is_available():
        cpu.install()  # what describes them imports Megatron
    reader = dcp.FileSystemReader(checkpoint / "weights")
    stored = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(value.size, dtype=value.properties.dtype)
        for name, value in stored.items()
        if isinstance(value, TensorStorageMetadata) and name.startswith(prefix)
    }
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def relative_difference(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, 0 where both are zero."""
    return float((a - b).double().norm() / b.double().norm().clamp(min=1e-30))


def training(dataset: Path, log_dir: Path, start: Path | str) -> list[str]:
    """nemo-bt train on the random pairs."""
    return [
        "train",
        f"model.restore_from_path={start}",
        f"model.data.train={dataset / 'random.parquet'}",
        f"+model.data.validation.held_out={dataset / 'random_val.parquet'}",
        f"exp_manager.explicit_log_dir={log_dir}",
        "trainer.accelerator=cpu",
        "model.optim.lr=1e-3",
        "model.optim.sched.warmup_steps=0",
        "model.encoder_seq_length=512",
    ]

"""Runs that are killed at chosen moments and started again, to be compared with one that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import torch

from nemo_bt.checkpoint.find import saved_checkpoints, step_of
from tests.support.runs import full_tensors, metrics

STEPS = 40
_DEADLINE_S = 400


def overrides_of(dataset: Path, log_dir: Path, steps: int = STEPS) -> list[str]:
    """A run of a small model on two ranks whose logs, saves and validations fall on different steps."""
    return [
        "model=llama_quickstart",
        "model.hidden_size=64",
        "model.ffn_hidden_size=160",
        f"model.data.train={dataset / 'random.parquet'}",
        f"+model.data.validation.held_out={dataset / 'random_val.parquet'}",
        f"model.tokenizer.type={dataset / 'tokenizer'}",
        "model.global_batch_size=16",
        "model.data.tokens_per_micro_batch=2048",
        "model.optim.name=distributed_fused_adam",
        "model.optim.lr=1e-3",
        "model.optim.sched.warmup_steps=5",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        f"trainer.max_steps={steps}",
        "trainer.log_every_n_steps=3",
        "trainer.val_check_interval=5",
        f"exp_manager.explicit_log_dir={log_dir}",
        "exp_manager.resume_if_exists=true",
        "exp_manager.checkpoint_callback_params.every_n_train_steps=2",
    ]


class Process(Protocol):
    """What can be asked whether it has ended: its exit status, None until then."""

    def poll(self) -> int | None: ...


@dataclass(frozen=True)
class Fault:
    """What is done to a run, and when.

    Args:
        moment: start-up, step, save or prune.
        whom: all (with the process that started the ranks), rank (a random one), or ask (SIGTERM to the command).
        delay_share: of the time that such a moment takes, after which it happens, [0, 1).
        rank: for `rank`.
    """

    moment: str
    whom: str
    delay_share: float
    rank: int


MOMENT_S = {"start-up": 10.0, "step": 0.3, "save": 0.5, "prune": 0.05}
"""What the moments take here, about."""


def drawn_faults(number: int, seed: int) -> list[Fault]:
    """Every moment in turn, everything else drawn."""
    draw = random.Random(seed)
    moments = list(MOMENT_S)
    return [
        Fault(moments[i % len(moments)], draw.choice(["all", "rank", "rank", "ask"]), draw.random(), draw.randrange(2))
        for i in range(number)
    ]


def start(overrides: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nemo_bt", "train", *overrides]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # sums of as many threads are the same
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_until(holds: Callable[[], bool], process: Process) -> bool:
    """Look every millisecond; False where the process ended first."""
    deadline_s = time.monotonic() + _DEADLINE_S
    while not holds():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline_s, "the moment never came"
        time.sleep(0.001)
    return True


def moment_of(moment: str, log_dir: Path) -> Callable[[], bool]:
    """Tell when a run that starts now has got so far."""
    folder, first = log_dir / "checkpoints", len(metrics(log_dir, "train/loss"))

    def unfinished(is_newer: bool) -> bool:
        if len(metrics(log_dir, "train/loss")) == first:
            return False  # what a fault before left may be there still
        newest = max(map(step_of, saved_checkpoints(folder)), default=-1)
        steps = [int(path.name.split("step")[1].split(".")[0]) for path in folder.glob(".*.unfinished")]
        return any((step > newest) == is_newer for step in steps)

    return {
        "start-up": lambda: True,
        "step": lambda: len(metrics(log_dir, "train/loss")) > first,
        "save": lambda: unfinished(is_newer=True),
        "prune": lambda: unfinished(is_newer=False),
    }[moment]


def disturb(fault: Fault, overrides: list[str], log_dir: Path) -> tuple[int, str]:
    """Start the run, let the fault happen, and wait for its end.

    Returns:
        The exit status, and what it printed. No process of it is left.
    """
    happens = moment_of(fault.moment, log_dir)
    process = start(overrides)
    if wait_until(happens, process):
        time.sleep(MOMENT_S[fault.moment] * fault.delay_share)
    family: list[psutil.Process] = []
    ranks: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # it may end of itself at any moment
        command = psutil.Process(process.pid)
        family, ranks = [command, *command.children(recursive=True)], command.children()
    if fault.whom == "ask":
        victims, number = family[:1], signal.SIGTERM
    elif fault.whom == "rank" and ranks:
        victims, number = [ranks[fault.rank % len(ranks)]], signal.SIGKILL
    else:
        victims, number = family, signal.SIGKILL
    for victim in victims:
        if victim.is_running():
            with suppress(ProcessLookupError):
                os.kill(victim.pid, number)
    printed, _ = process.communicate(timeout=_DEADLINE_S)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, f"after {fault}: still there: {alive}"
    return process.returncode, printed


def finish(overrides: list[str]) -> str:
    """Run to the end."""
    process = start(overrides)
    printed, _ = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 0, printed
    return printed


def differences(log_dir: Path, undisturbed: Path, steps: int = STEPS) -> list[str]:
    """Names of metrics, weights and optimizer state that are not those of the undisturbed run, to the last bit."""
    keys = ("step", "train/loss", "train/grad_norm", "train/lr", "train/packing_efficiency", "val/held_out/loss")
    found = [key for key in keys if metrics(log_dir, key) != metrics(undisturbed, key) or not metrics(log_dir, key)]
    name = f"reward-step{steps}.nemo"
    tensors, expected = (full_tensors(folder / "checkpoints" / name, prefix="") for folder in (log_dir, undisturbed))
    found += sorted(tensors.keys() ^ expected.keys())
    return found + [key for key in tensors.keys() & expected.keys() if not torch.equal(tensors[key], expected[key])]

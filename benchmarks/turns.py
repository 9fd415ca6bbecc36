"""Turns of two trainers, one optimizer step at a time, so that noise of the machine falls on both alike.

The command listens at a socket of the file system; rank 0 of each trainer connects and asks before every step. No
trainer ends, which costs time, before every step is timed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import torch

_START_TIMEOUT_S = 180
_STEP_TIMEOUT_S = 1800


class Turns:
    """A trainer's side. It reports each step and then waits for its next turn, on every rank."""

    def __init__(self, address: str, rank: int) -> None:
        self.connection = Client(address, "AF_UNIX") if rank == 0 else None
        self.begin()

    def begin(self) -> None:
        """Begin to time the first step."""
        self.start_s = time.perf_counter()

    def end_step(self) -> None:
        """Report the step that ends here, and wait for the next turn, or after the last step for leave to end."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.start_s
        if self.connection:
            self.connection.send({"seconds": seconds, "peak_mb": peak_memory_mb()})
            self.connection.recv()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        self.begin()


def peak_memory_mb() -> float:
    """Give the peak memory of this process: that of tensors on a GPU where it has some, else resident memory.

    getrusage would count the process that it was forked from.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


class Trainer:
    """The command's side: a process that trains in steps. It starts at once; `ready` waits for its first step.

    Args:
        module: module that `python -m` runs, one process per rank.
        arguments: its arguments; `--address`, where it connects, is appended.
        num_ranks: number of processes.
        log: file of its output.
    """

    def __init__(self, module: str, arguments: Sequence[str], num_ranks: int, log: Path) -> None:
        self.log = log
        self.num_ranks = num_ranks
        threads = max(1, len(os.sched_getaffinity(0)) // num_ranks)
        address = str(log.with_suffix(".socket"))
        ranks = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"] if num_ranks > 1 else []
        )
        command = [sys.executable, *ranks, "-m", module, *arguments, "--address", address]
        self.listener = Listener(address, "AF_UNIX")
        with log.open("w") as output:
            env = os.environ | {"OMP_NUM_THREADS": str(threads)}
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
        self.seconds: list[float] = []
        """Time of each step so far; the first is a warm-up."""
        self.peak_mb = 0.0
        """Peak memory of rank 0, by its last report."""

    def ready(self) -> None:
        """Wait until it has done its first step."""
        self.listener._listener._socket.settimeout(_START_TIMEOUT_S)  # type: ignore[attr-defined]
        self.connection: Connection = self.listener.accept()
        self._receive()

    def step(self) -> float:
        """Run one optimizer step, and give its seconds."""
        self.connection.send("go")
        self._receive()
        return self.seconds[-1]

    def end(self) -> None:
        """Let it end after its last step, once no step of another trainer is timed any more, and wait for that.

        Raises:
            SystemExit: the trainer failed.
        """
        self.connection.send("go")
        if self.process.wait(timeout=_START_TIMEOUT_S):
            raise SystemExit(f"a trainer failed: see {self.log}")

    def stop(self) -> None:
        """End it at once, before its last step or before it saves what nobody reads."""
        if self.num_ranks == 1:
            self.process.kill()  # it would save at a SIGTERM
        else:
            self.process.terminate()  # torchrun ends its ranks
        self.process.wait(timeout=_START_TIMEOUT_S)

    def _receive(self) -> None:
        try:
            if not self.connection.poll(_STEP_TIMEOUT_S):
                raise SystemExit(f"a trainer did nothing for {_STEP_TIMEOUT_S} s: see {self.log}")
            report = self.connection.recv()
            self.seconds.append(report["seconds"])
            self.peak_mb = report["peak_mb"]
        except EOFError:
            raise SystemExit(f"a trainer ended early: see {self.log}") from None

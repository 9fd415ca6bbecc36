"""Start the local ranks of a run, as torchrun would, and end them together.

Under torchrun or srun the ranks exist already, which `joined` tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

import psutil

from nemo_bt.config.device import runs_on_gpu
from nemo_bt.errors import UserError
from nemo_bt.files import write_atomically
from nemo_bt.launching.crowding import crowding
from nemo_bt.launching.ends import RanksEnded, ended_by
from nemo_bt.launching.meeting import meet
from nemo_bt.launching.signals import STOPPED_FILE, STOPPED_STATUS, STOPPING_SIGNALS, answer_of, kept_handlers
from nemo_bt.launching.slurm import is_srun_task, rank_variables

if TYPE_CHECKING:
    from nemo_bt.config.model import JobSettings

_STARTED_HERE = "NEMO_BT_STARTED_HERE"
_SAVE_NOTHING = ("validate", "report")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def joined() -> bool:
    """Tell whether this process is already one rank of a job; a batch script or shell of Slurm is not."""
    return "RANK" in os.environ or is_srun_task()


def started_here() -> bool:
    """Tell whether `run_ranks` started this process."""
    return _STARTED_HERE in os.environ


def answering(stderr: TextIO, rank: int) -> int | None:
    """Give the file descriptor on which this rank answers signals: rank 0 does, unless what started it answers."""
    try:
        return stderr.fileno() if rank == 0 and not started_here() else None
    except OSError:  # it is no file
        return None


def current_rank() -> int:
    """Give the rank of this process in the whole job; 0 where there is only one."""
    return int(os.environ.get("RANK", os.environ["SLURM_PROCID"] if is_srun_task() else 0))


def check_joined(settings: JobSettings) -> None:
    """Check that the job has as many processes as the settings name.

    Raises:
        UserError: it has more or fewer.
    """
    started = int(os.environ["WORLD_SIZE"])
    if started != settings.world_size:
        raise UserError(
            f"{started} processes were started, trainer.devices={settings.trainer.devices} x trainer.num_nodes="
            f"{settings.trainer.num_nodes} = {settings.world_size} are configured. Make them equal."
        )


def is_to_start(settings: JobSettings) -> bool:
    """Tell whether this process has to start the ranks.

    If it is a rank, it ends with the process that started it from now on, has torchrun's variables, and meets the
    others.

    Raises:
        UserError: ranks on several nodes need a launcher, the job has more or fewer ranks than the settings name, or
            some did not come.
    """
    if not joined() and settings.world_size > 1:
        if settings.trainer.num_nodes > 1:
            raise UserError("trainer.num_nodes > 1: start the ranks with srun or torchrun on each node.")
        if not runs_on_gpu(settings.trainer):
            crowded = crowding(settings.world_size, len(os.sched_getaffinity(0)), psutil.virtual_memory().available)
            if crowded:
                print(f"warning: {crowded}", file=sys.stderr)
        return True
    if joined():
        end_with_parent()
        if is_srun_task() and "RANK" not in os.environ:
            os.environ |= rank_variables(os.environ)
        check_joined(settings)
        meet(settings.trainer.start_timeout_s)
    return False


def report(error: UserError, stderr: TextIO) -> None:
    """Show a user's mistake once: through the process that started the ranks, or once a node under torchrun or srun."""
    if started_here():
        # This rank may be ended any moment, as another failed; half a file would end the process that reads it.
        try:
            write_atomically(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), json.dumps({"message": f"error: {error}"}))
        except OSError:  # the disk of temporary files is full, which may be what the error says
            stderr.write(f"error: {error}\n")
            stderr.flush()
    elif int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))) == 0:
        stderr.write(f"error: {error}\n")
        stderr.flush()


def end_with(parent_pid: int) -> None:
    """Have the kernel end this process when the one that started it is gone; if it is gone already, end now."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_parent() -> None:
    """Have the kernel end this rank when the process that started it is gone, however it ended.

    The processes that the rank forks (Megatron's checkpoint writers) end with the rank in the same way.
    """
    forking = [0]
    os.register_at_fork(before=lambda: forking.__setitem__(0, os.getpid()), after_in_child=lambda: end_with(forking[0]))
    if started_here():
        end_with(int(os.environ[_STARTED_HERE]))


def run_ranks(argv: Sequence[str], num_ranks: int) -> int:
    """Run `python -m nemo_bt argv` once per rank, wait for all, and give the exit status of `RanksEnded`."""
    ended = start_ranks(["-m", "nemo_bt", *argv], num_ranks, saves=argv[0] not in _SAVE_NOTHING)
    if ended.message:
        print(ended.message, file=sys.stderr)
    return ended.status


def start_ranks(
    command: Sequence[str], num_ranks: int, variables: Mapping[str, str] | None = None, saves: bool = True
) -> RanksEnded:
    """Run `python command` once per rank and wait for all.

    When a rank fails, the others are ended (SIGTERM, then SIGKILL). SIGINT, SIGTERM and SIGUSR1 ask the ranks to end
    between two steps; a second one ends them at once.

    Args:
        command: arguments of Python.
        num_ranks: processes to start on this machine.
        variables: what their environment gets beside the variables that torchrun would set.
        saves: whether they have something to save when they are asked to end.
    """
    # elastic_launch would bound the death of ranks alike, by the same start_processes (0.6 s after a kill -9 of one,
    # 31 s where another ignores SIGTERM). But its first SIGTERM ends all of them within 2 s, without a save, and it
    # tells no pids by which to ask them instead. After a SIGKILL of it ranks run on; here `end_with` ends them.
    from torch.distributed import TCPStore
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks speak for themselves
    # The ranks meet at a store that this process holds, on a port that the system chose: nothing to collide with.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    asking = _Asking(saves)
    with tempfile.TemporaryDirectory(prefix="nemo_bt-") as log_dir, kept_handlers():
        stopped_file = Path(log_dir) / "stopped"
        shared = _environment(num_ranks, store.port, stopped_file) | dict(variables or {})
        for number in STOPPING_SIGNALS:
            signal.signal(number, asking.hear)
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # torch would take SIGTERM and SIGINT over
        ranks = None
        try:
            ranks = start_processes(
                name="nemo-bt",
                entrypoint=sys.executable,
                args=dict.fromkeys(range(num_ranks), ("-u", *command)),
                envs={rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)},
                logs_specs=DefaultLogsSpecs(log_dir=log_dir),
            )
            asking.pass_on_to(ranks.pids().values())
            ended = ranks.wait()
        except SignalException as stopped:
            return RanksEnded(128 + stopped.sigval, f"ended by {signal.Signals(stopped.sigval).name}")
        finally:
            if ranks:
                ranks.close()
        assert ended is not None  # it is after a timeout, which is not set
        if not ended.failures:
            return RanksEnded(STOPPED_STATUS if stopped_file.exists() else 0)
    return ended_by(ended.failures.values(), was_asked=bool(asking.heard))


class _Asking:
    """Requests to end, which are passed on to ranks; one that comes before they are there waits for them.

    Args:
        saves: whether they have something to save.

    Attributes:
        heard: signals that came. A second one of the same raises torch's SignalException.
    """

    def __init__(self, saves: bool) -> None:
        self.saves = saves
        self.heard: set[int] = set()
        self.pids: list[int] = []

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number in self.heard:
            from torch.distributed.elastic.multiprocessing import SignalException

            raise SignalException("a second one", signal.Signals(number))
        self.heard.add(number)
        print(answer_of(number, ends_at_second=True, saves=self.saves), file=sys.stderr, flush=True)
        self._pass_on()

    def pass_on_to(self, pids: Iterable[int]) -> None:
        """Name the ranks, which hear what was heard before."""
        self.pids += pids
        if self.heard:
            self._pass_on()

    def _pass_on(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)


def _environment(num_ranks: int, port: int, stopped_file: Path) -> dict[str, str]:
    """Give the variables that all local ranks have alike."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_ranks)))
    return {
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "nemo_bt",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": threads,
        STOPPED_FILE: str(stopped_file),
        _STARTED_HERE: str(os.getpid()),
    }

"""Runs of `nemo-bt train` in forks of a process that has imported NeMo.

A fork runs `nemo_bt.cli.main.run` as `python -m nemo_bt` does, and its ranks are forks of it in turn, started, asked
and ended by nemo_bt's own launcher. It saves the import alone, 10 s a process.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fault_world import READY, follow, prefix, variables
from nemo_bt.launching.local import end_with

_MODULE = "nemo_bt"


def enter(module: str) -> None:
    """Start this program again with one thread, mounts of its own and a clock that can jump, where they are to be had.

    It returns in the program that was started, with NeMo imported.
    """
    if READY not in os.environ:
        command = [*prefix(), sys.executable, "-m", module, *sys.argv[1:]]
        os.execvpe(command[0], command, os.environ | variables())
    from nemo_bt.training.nemo_import import import_nemo

    import_nemo(on_gpu=False)
    import torch.distributed.elastic.multiprocessing  # noqa: F401


class Forked:
    """A process that runs `python -m nemo_bt argv`, with what the launcher and a fault ask of a `subprocess.Popen`.

    Args:
        env: the whole environment.
        output: file that stdout and stderr are appended to; None leaves them as they are.
        clock: file with the seconds by which its clock is ahead.
        callbacks: what its training calls beside its own callbacks.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: Path | None = None,
        clock: Path | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            end_with(parent)
            _become(argv, env, output, clock, callbacks)

    def poll(self) -> int | None:
        """Give the exit status, -n after signal n; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it did not come within `timeout` seconds.
        """
        deadline_s = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired("nemo_bt", timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def family(self) -> list[psutil.Process]:
        """List this process and all below it, as far as they still run; none after its end."""
        with suppress(psutil.NoSuchProcess):
            if self.poll() is None:
                command = psutil.Process(self.pid)
                return [command, *command.children(recursive=True)]
        return []


def _become(
    argv: Sequence[str], env: Mapping[str, str], output: Path | None, clock: Path | None, callbacks: Sequence[Any]
) -> None:
    """Be the command, and end: what this process was before is left as it is."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        if output:
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(file, 1)
            os.dup2(file, 2)
        os.environ.clear()
        os.environ.update(env)
        if clock:
            follow(clock)
        sys.argv = [_MODULE, *argv]
        if callbacks:
            _add(callbacks)
        status = _command(argv)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        status = 130
    except BaseException:  # noqa: BLE001 - as at the end of a program
        sys.excepthook(*sys.exc_info())
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _command(argv: Sequence[str]) -> int:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    from nemo_bt.cli.main import run

    def forked(handler: Any, args: tuple[str, ...], env: dict[str, str]) -> Forked:
        at = args.index(_MODULE)
        assert args[at - 1] == "-m", f"not a command of ours: {args}"
        return Forked(args[at + 1 :], env)

    SubprocessHandler._popen = forked  # the launcher's only way to a process
    return run(argv)


def _add(callbacks: Sequence[Any]) -> None:
    import nemo_bt.training.train as training

    training.train = functools.partial(training.train, callbacks=tuple(callbacks))


def described(error: BaseException) -> str:
    """Give an error of the campaign itself, for its record."""
    return "".join(traceback.format_exception(error))

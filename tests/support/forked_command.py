"""`python -m MODULE argv` in a fork of this process, which has imported what the module needs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from nemo_bt.launching.local import end_with


class Forked:
    """A process that runs a module as `python -m` does, with what a launcher asks of a `subprocess.Popen`.

    The ranks that `nemo-bt` starts are forks of it in turn, started, asked and ended by nemo_bt's own launcher.

    Args:
        command: the module, which has a `main`, and its arguments.
        env: the whole environment.
        output: file that stdout is appended to; None leaves stdout and stderr as they are.
        errors: file that stderr is appended to; None is that of stdout.
        folder: what it works in.
        prepare: is called in the new process, before the module.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        output: Path | None = None,
        errors: Path | None = None,
        folder: Path | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            end_with(parent)
            _become(command, env, output, errors, folder, prepare)

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
                raise subprocess.TimeoutExpired("a forked command", timeout)
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
    command: Sequence[str],
    env: Mapping[str, str],
    output: Path | None,
    errors: Path | None,
    folder: Path | None,
    prepare: Callable[[], None] | None,
) -> None:
    """Be the command, and end: what this process was before is left as it is."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        if output:
            for number, path in ((1, output), (2, errors or output)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        if folder:
            os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = [*command]
        if prepare:
            prepare()
        _fork_ranks()
        import_module(_PROGRAMS.get(command[0], command[0])).main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
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


_PROGRAMS = {"nemo_bt": "nemo_bt.cli.main"}
"""Packages that `python -m` can run, and the module with their `main`."""


def _fork_ranks() -> None:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    def forked(handler: Any, args: tuple[str, ...], env: dict[str, str]) -> Forked:
        at = args.index("-m")
        return Forked(args[at + 1 :], env)

    SubprocessHandler._popen = forked  # the launcher's only way to a process

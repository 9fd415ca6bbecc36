"""Runs of `nemo-bt train` in forks of a process that has imported NeMo, with a disk and a clock that faults reach.

A fork runs `nemo_bt.cli.main.run` as `python -m nemo_bt` does, and its ranks are forks of it in turn, started, asked
and ended by nemo_bt's own launcher. It saves the import alone, 10 s a process.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from nemo_bt.launching.local import end_with

_CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *ahead_s = 0;
int set_clock_file(const char *path) {
    int file = open(path, O_RDONLY);
    void *map = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (map == MAP_FAILED) return -1;
    ahead_s = map;
    return 0;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, id, now);
    if (ahead_s && !status && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead_s;
    return status;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
"""
_READY = "NEMO_BT_FAULTS_READY"
_WITH_MOUNTS = "mounts"
_MODULE = "nemo_bt"


def enter(module: str) -> None:
    """Start this program again with one thread, mounts of its own and a clock that can jump, where they are to be had.

    It returns in the program that was started, with NeMo imported.
    """
    if _READY not in os.environ:
        mounts = ["unshare", "--mount"] if _can("unshare", "--mount", "true") else []
        ready = {
            _READY: _WITH_MOUNTS if mounts else "without",
            "OMP_NUM_THREADS": "1",
        }  # as many threads: the same sums
        clock = _clock_library()
        env = os.environ | ready | ({"LD_PRELOAD": str(clock)} if clock else {})
        command = [*mounts, sys.executable, "-m", module, *sys.argv[1:]]
        os.execvpe(command[0], command, env)
    from nemo_bt.training.nemo_import import import_nemo

    import_nemo(on_gpu=False)
    import torch.distributed.elastic.multiprocessing  # noqa: F401


def has_mounts() -> bool:
    """Tell whether this process may mount, and sees mounts that no other does."""
    return os.environ.get(_READY) == _WITH_MOUNTS


def has_clock() -> bool:
    """Tell whether the clock of runs can jump."""
    return hasattr(ctypes.CDLL(None), "set_clock_file")


def _can(*command: str) -> bool:
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0
    return False


def _clock_library() -> Path | None:
    folder = Path(tempfile.mkdtemp(prefix="nemo_bt-clock-"))
    (folder / "clock.c").write_text(_CLOCK)
    library = folder / "clock.so"
    return library if _can("cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(folder / "clock.c")) else None


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
        if clock and ctypes.CDLL(None).set_clock_file(str(clock).encode()):
            raise OSError(f"{clock} cannot be mapped")
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


class Disk:
    """A folder on a disk of its own in memory, whose room can be taken away; an ordinary one where mounts are refused.

    Args:
        folder: is made.
        num_bytes: its size, where it can be set.
    """

    def __init__(self, folder: Path, num_bytes: int = 200_000_000) -> None:
        self.folder = folder
        self.num_bytes = num_bytes
        folder.mkdir(parents=True)
        self.is_own = has_mounts() and _can("mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "faults", str(folder))

    def leave(self, free_bytes: int) -> None:
        """Take all room but so much."""
        stat = os.statvfs(self.folder)
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        self._remount(f"size={used + free_bytes}")

    def refuse_writes(self) -> None:
        """Make it read-only; no file may be open for writing."""
        self._remount("ro")

    def mend(self) -> None:
        """Give it its room back."""
        self._remount(f"rw,size={self.num_bytes}")

    def _remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True, timeout=20)

    def remove(self) -> None:
        """Give its memory back."""
        if self.is_own:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True, timeout=20)


class Clock:
    """The file that says by how many seconds the clock of a run is ahead."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.jump(0)

    def jump(self, ahead_s: int) -> None:
        """Set it; what runs sees it at once."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("l", ahead_s))


def traceback_in(text: str) -> bool:
    """Tell whether a user was shown a traceback."""
    return "Traceback (most recent call last)" in text


def described(error: BaseException) -> str:
    """Give an error of the campaign itself, for its record."""
    return "".join(traceback.format_exception(error))

"""Work on what others wrote, in a process with limits of time and memory: a chat template is a program."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from nemo_bt.errors import UserError

CPU_S = 5
"""Seconds of a core that work may take; a template takes milliseconds."""
EXTRA_BYTES = 1 << 30
"""Memory that it may take beyond what the process has."""
_WAIT_S = 120.0
"""Seconds until it is ended, however little of a core it had."""


def ends_within_limits(work: Callable[[], object], what: str, mend: str, cpu_s: int = CPU_S) -> None:
    """Do the work in a fork of this process, which gives nothing back, and see that it ends.

    What it raises is nobody's matter here: the same work is done again where the result is wanted.

    Raises:
        UserError: it took more time or memory than there is for it, or ended its process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os._exit(_limited(work, cpu_s))
    watched = os.pidfd_open(pid)
    try:
        waiting = select.poll()  # select takes no descriptor from 1024 on, which a run with many files has
        waiting.register(watched, select.POLLIN)
        is_over = bool(waiting.poll(1000 * _WAIT_S))
        if not is_over:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(watched)
    _, waited = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(waited)
    if not is_over or status == -signal.SIGXCPU:
        raise UserError(f"{what} does not end within {cpu_s} s of a core. {mend}")
    if status == _NO_MEMORY:
        raise UserError(f"{what} takes more than {EXTRA_BYTES >> 20:,} MiB of memory. {mend}")
    if status < 0:
        raise UserError(f"{what} ended its process by {signal.Signals(-status).name}. {mend}")


_NO_MEMORY = 3


def _limited(work: Callable[[], object], cpu_s: int) -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + EXTRA_BYTES
        used_s = int(sum(os.times()[:2]))
        for number, limit in ((resource.RLIMIT_AS, most), (resource.RLIMIT_CPU, used_s + cpu_s)):
            hard = resource.getrlimit(number)[1]
            resource.setrlimit(number, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        work()
    except MemoryError:
        return _NO_MEMORY
    except BaseException:  # noqa: BLE001 - raised again where the result is wanted
        return 0
    return 0

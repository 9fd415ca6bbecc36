"""An interactive shell on a terminal, into which something is typed."""

import os
import pty
import select
import signal
import time
from collections.abc import Mapping, Sequence


def typed(line: str, shell: Sequence[str], env: Mapping[str, str], timeout_s: float, is_task: bool = False) -> str:
    """What the terminal shows until the shell ends.

    Args:
        line: what is typed.
        shell: the command that gives the shell.
        is_task: whether it is what Slurm started, and so in SLURM_TASK_PID.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(shell[0], [*shell], {**env} | ({"SLURM_TASK_PID": str(os.getpid())} if is_task else {}))
    os.write(terminal, f"{line}; exit\n".encode())
    said = b""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                said += os.read(terminal, 4096)
            except OSError:  # the shell has ended
                break
    else:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    return said.decode()

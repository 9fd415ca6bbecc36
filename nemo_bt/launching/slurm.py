"""What Slurm says of this process: whether it is a rank of a job, and of which nodes. It imports nothing heavy.

As Slurm 22.05 has it, in the environment of what a user types, on an allocation of two tasks:

| where | SLURM_STEP_ID | SLURM_STEP_NUM_TASKS | terminal of the process SLURM_TASK_PID |
|---|---|---|---|
| a batch script; a shell of salloc | - | - | - |
| a shell of salloc that is a step (LaunchParameters=use_interactive_step) | 4294967290 | 1 | yes |
| a shell of srun --pty | 0 | 2 | yes |
| srun, in any of them | 0, 1, ... | 2 | no |

The job's name, and variables such as SLURM_NTASKS and SLURM_PTY_PORT, are inherited by srun within a shell, and tell
nothing.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path


def is_srun_task() -> bool:
    """Tell whether srun started this process, and others, as ranks. What is typed in a shell of an allocation is none.

    srun --pty starts all tasks of its step too, but gives a terminal to the first alone: other shells end at once.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1"))
    return "SLURM_STEP_ID" in os.environ and int(tasks) > 1 and not _is_typed_in_a_task()


def _is_typed_in_a_task() -> bool:
    """Tell whether the task that Slurm started is a shell on a terminal, and this process one of its jobs.

    A script on a terminal starts no jobs: what it runs is of its own process group.
    """
    try:
        stat = Path(f"/proc/{int(os.environ['SLURM_TASK_PID'])}/stat").read_text()
    except (KeyError, ValueError, OSError):
        return False
    process_group, _, terminal = stat.rpartition(")")[2].split()[2:5]  # proc(5): pid (name) state ppid pgrp session tty
    return terminal != "0" and int(process_group) != os.getpgrp()


def node_name() -> str:
    """Give the name by which Slurm knows this machine, or its own."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


def rank_variables(of: Mapping[str, str]) -> dict[str, str]:
    """Give what torchrun would set for this task of srun. MASTER_ADDR and MASTER_PORT stay where a site has set them.

    The port is Lightning's: 15000 and the last four digits of the job's number.
    """
    return {
        "RANK": of["SLURM_PROCID"],
        "WORLD_SIZE": of.get("SLURM_STEP_NUM_TASKS") or of["SLURM_NTASKS"],
        "LOCAL_RANK": of["SLURM_LOCALID"],
        "GROUP_RANK": of["SLURM_NODEID"],
        "MASTER_ADDR": of.get("MASTER_ADDR") or next(iter(tasks_of_nodes(of)), "127.0.0.1"),
        "MASTER_PORT": of.get("MASTER_PORT") or str(15000 + int(of["SLURM_JOB_ID"][-4:])),
    }


def tasks_of_nodes(of: Mapping[str, str]) -> dict[str, int]:
    """Give the number of this step's tasks on each of its nodes, in Slurm's order; empty outside a step."""
    nodes = _expanded(of.get("SLURM_STEP_NODELIST", ""))
    tasks: list[int] = []
    for part in of.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):  # 4(x2),3: four on each of two, three on one
        count, _, times = part.partition("(x")
        tasks += [int(count or 0)] * int(times.rstrip(")") or 1)
    return dict(zip(nodes, tasks, strict=False))


def _expanded(names: str) -> list[str]:
    """Write a list of Slurm's out: n[08-10],m is n08, n09, n10, m."""
    found = []
    for name in re.split(r",(?![^\[]*\])", names):
        start, is_range, rest = name.partition("[")
        if not is_range:
            found += [name] if name else []
            continue
        numbers, _, end = rest.partition("]")
        for part in numbers.split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                found += _expanded(f"{start}{number:0{len(first)}d}{end}")
    return found

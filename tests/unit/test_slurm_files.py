"""slurm/env.sh and the jobs beside it, without a Slurm: what they would start."""

import re
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.launching.local import is_srun_task, joined
from tests.support.runs import REPO

JOBS = [path for path in sorted((REPO / "slurm").glob("*.sbatch")) if "srun" in path.read_text()]


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_every_step_of_a_job_gets_the_cpus_of_its_tasks(job: Path) -> None:
    text = job.read_text()
    calls = re.findall(r"^srun .*", text, re.MULTILINE)
    assert calls
    assert all(call.startswith('srun "${cpus[@]}" "${SRUN_OPTIONS[@]}"') for call in calls)
    assert '"--cpus-per-task=$SLURM_CPUS_PER_TASK"' in text


@pytest.mark.parametrize(
    ("variables", "is_task"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False),  # a batch script, or a shell of salloc
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"SLURM_STEP_ID": "4294967290", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, False),  # salloc's own step
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, False),  # srun --pty bash
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"}, True),
        ({"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "RANK": "3"}, True),  # torchrun in such a shell
    ],
)
def test_a_shell_in_an_allocation_starts_ranks_of_its_own(
    monkeypatch: Any, variables: dict[str, str], is_task: bool
) -> None:
    for name in ("RANK", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert joined() == is_task
    assert is_srun_task() == (is_task and "RANK" not in variables)

"""What Slurm's variables say of ranks and nodes."""

from typing import Any

import pytest

from nemo_bt.launching import slurm
from nemo_bt.launching.meeting import _ranges

STEP = {"SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "5"}
STEP |= {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
STEP |= {"SLURM_STEP_NODELIST": "n[2-3]", "SLURM_STEP_TASKS_PER_NODE": "2,3"}


def test_a_task_of_srun_has_the_variables_of_torchrun() -> None:
    where = {"MASTER_ADDR": "n2", "MASTER_PORT": "19567"}
    numbers = {"RANK": "3", "WORLD_SIZE": "5", "LOCAL_RANK": "1", "GROUP_RANK": "1"}
    assert slurm.rank_variables(STEP) == numbers | where
    own = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4"}
    assert slurm.rank_variables(STEP | own) == numbers | own
    assert slurm.rank_variables({name: STEP[name] for name in STEP if name != "SLURM_NTASKS"}) == numbers | where


@pytest.mark.parametrize(
    ("nodes", "tasks", "found"),
    [
        ("n1", "4", {"n1": 4}),
        ("n[1-2]", "2(x2)", {"n1": 2, "n2": 2}),
        ("n[08-10,12],gpu-a", "4(x3),1(x2)", {"n08": 4, "n09": 4, "n10": 4, "n12": 1, "gpu-a": 1}),
        ("r[1-2]n[3,5]", "1(x4)", {"r1n3": 1, "r1n5": 1, "r2n3": 1, "r2n5": 1}),
        ("", "", {}),
    ],
)
def test_nodes_and_their_tasks_are_written_out(nodes: str, tasks: str, found: dict[str, int]) -> None:
    assert slurm.tasks_of_nodes({"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_TASKS_PER_NODE": tasks}) == found


def test_ranks_are_written_shortly() -> None:
    assert _ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"


def test_a_task_that_is_gone_is_no_shell(monkeypatch: Any) -> None:
    for name, value in (STEP | {"SLURM_TASK_PID": "0"}).items():
        monkeypatch.setenv(name, value)
    assert slurm.is_srun_task()

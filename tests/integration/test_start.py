"""Who is a rank, and whom ranks wait for at the start. No NeMo is needed for it."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import REPO, free_port, nemo_bt
from tests.support.shells import typed

TASKS = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
ASKS = "from nemo_bt.launching.local import joined; print('joined' if joined() else 'typed')"
MEETS = "import sys; from nemo_bt.launching.meeting import meet; meet(float(sys.argv[1]), 1.0); print('met')"


def clean(**variables: str) -> dict[str, str]:
    """This process's environment, without what makes it a rank."""
    named = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "RANK", "MASTER"))}
    return named | {"PYTHONPATH": str(REPO)} | variables


def on_terminal(line: str, **variables: str) -> list[str]:
    """What a shell prints, which is the task of a step and has a terminal."""
    return typed(line, ["bash", "--norc", "-i"], clean(**variables), timeout_s=60, is_task=True).splitlines()


@pytest.mark.parametrize("by", [f'"{sys.executable}"', f'setsid -w "{sys.executable}"'])
def test_what_is_typed_in_a_shell_of_a_step_of_several_tasks_is_no_rank(by: str) -> None:
    assert "typed" in on_terminal(f'{by} -c "{ASKS}"', **TASKS)


def test_srun_in_such_a_shell_starts_ranks(tmp_path: Path) -> None:
    """It leaves a terminal to none of its tasks, and tells each its own number."""
    (tmp_path / "task").write_text(f'export SLURM_TASK_PID=$$\n"{sys.executable}" -c "{ASKS}"\ntrue\n')
    said = on_terminal(f"setsid -w sh {tmp_path / 'task'} < /dev/null", SLURM_PTY_PORT="1", **TASKS)
    assert "joined" in said


def test_a_script_that_is_the_task_runs_ranks(tmp_path: Path) -> None:
    """srun --pty bash script: its first task has a terminal too."""
    (tmp_path / "script").write_text(f'export SLURM_TASK_PID=$$\n"{sys.executable}" -c "{ASKS}"\ntrue\n')
    assert "joined" in on_terminal(f"bash {tmp_path / 'script'}", **TASKS)


class Ranks:
    """Processes that meet as ranks of one job."""

    def __init__(self) -> None:
        self.port = free_port()
        self.started: list[subprocess.Popen[str]] = []

    def start(self, rank: int, size: int, timeout_s: float, **variables: str) -> subprocess.Popen[str]:
        named = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
        named |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)} | variables
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", MEETS, str(timeout_s)]
        self.started.append(subprocess.Popen(command, env=clean(**named), text=True, **pipes))
        return self.started[-1]


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    for one in made.started:
        one.kill()
        one.communicate()


def test_ranks_that_all_come_go_on(ranks: Ranks) -> None:
    started = [ranks.start(rank, 3, 60) for rank in (2, 0, 1)]
    said = [one.communicate(timeout=60) for one in started]
    assert [(out, one.returncode) for (out, _), one in zip(said, started, strict=True)] == [("met\n", 0)] * 3
    assert "waiting" not in "".join(err for _, err in said)


def test_ranks_that_do_not_come_are_named_and_the_others_end(ranks: Ranks) -> None:
    slurm = {"SLURM_STEP_NODELIST": "n[1-3]", "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)"}
    first = ranks.start(0, 4, 15, SLURMD_NODENAME="n1", **slurm)
    other = ranks.start(1, 4, 15, SLURMD_NODENAME="n1", **slurm)
    _, said = first.communicate(timeout=60)
    _, said_by_other = other.communicate(timeout=60)
    assert re.search(r"waiting since \d+ s for ranks 2-3 of n2, n3; here: n1\n", said)
    assert "UserError: 2 of 4 ranks did not come within 15 s (trainer.start_timeout_s): ranks 2-3 of n2, n3; " in said
    assert other.returncode == 2
    assert said_by_other == ""


def test_without_the_first_rank_the_others_say_so(ranks: Ranks) -> None:
    other = ranks.start(1, 2, 2, LOCAL_RANK="0")
    _, said = other.communicate(timeout=60)
    where = f"127.0.0.1 port {ranks.port} ([Errno 111] Connection refused)"
    assert re.search(rf"waiting since \d s for rank 0 at {re.escape(where)}\n", said)
    assert f"UserError: rank 1 did not find rank 0 at {where} within 2 s (trainer.start_timeout_s)." in said


def test_a_port_that_is_taken_is_told(ranks: Ranks) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", ranks.port))
        taken.listen()
        _, said = ranks.start(0, 2, 2).communicate(timeout=60)
    assert f"UserError: rank 0 cannot listen at 127.0.0.1 port {ranks.port}" in said


def test_a_command_that_waits_ends_with_one_message(tmp_path: Path) -> None:
    settings = ["model=llama_4x256", "trainer.devices=2", "trainer.start_timeout_s=2", "model.data.train=x.jsonl"]
    settings += ["trainer.accelerator=cpu", "model.tokenizer.type=x", f"exp_manager.explicit_log_dir={tmp_path}"]
    named = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    done = nemo_bt("train", *settings, **named, MASTER_PORT=str(free_port()))
    assert done.returncode == 2
    assert (
        done.stderr.count("error: 1 of 2 ranks did not come within 2 s (trainer.start_timeout_s): rank 1; here: ") == 1
    )

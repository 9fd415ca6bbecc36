"""What slurm/env.sh gives a job, what the jobs do with it, and the check of nodes, without a Slurm."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.runs import REPO, nemo_bt

APPTAINER = "apptainer exec --nv --no-home --pwd {folder} --bind {folder},/shared nemo_bt.sif python3"
PYXIS = (
    "--container-image={folder}/nemo_bt.sqsh --container-mounts={folder}:{folder},/shared:/shared "
    "--container-workdir={folder} --no-container-mount-home"
)


@pytest.mark.parametrize(
    ("uncommented", "python", "options"),
    [("", "{folder}/.venv/bin/python", ""), ("PYTHON=", APPTAINER, ""), ("SRUN_OPTIONS", "python3", PYXIS)],
)
def test_an_example_that_is_uncommented_where_it_stands_is_taken(
    tmp_path: Path, uncommented: str, python: str, options: str
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/bin/true")
    text = (REPO / "slurm" / "env.sh").read_text()
    if uncommented:
        text = re.sub(rf"^#   (?={uncommented})", "", text, flags=re.MULTILINE)
    (tmp_path / "env.sh").write_text(text)
    script = 'set -euo pipefail; source ./env.sh; echo "${PYTHON[@]}"; echo "${SRUN_OPTIONS[@]}"'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    folder = os.path.realpath(tmp_path)
    expected = [line.format(folder=folder) for line in (python, options)]
    assert (done.stdout.split("\n")[:2], done.stderr) == (expected, "")


def stub(folder: Path, name: str) -> None:
    """Leave a program that prints its words, one a line."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (folder / name).chmod(0o755)


def submitted(job: Path, *words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a job's script with an srun that prints what it would start."""
    stub(cwd / "bin", "srun")
    env = {"PATH": f"{cwd / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}
    env |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS_PER_NODE": "4"} | variables
    return subprocess.run(["bash", str(job), *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=20)


def test_one_clone_serves_users_who_submit_from_folders_of_their_own(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(REPO / "slurm", clone / "slurm")
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(sys.executable)
    user = tmp_path / "user"
    user.mkdir()
    (user / "runs.txt").write_text("# runs of today\nmodel.optim.lr=1e-5 'a=b c'  # the second\n")
    shared = {"NEMO_BT_ENV": str(clone / "slurm" / "env.sh")}
    done = submitted(clone / "slurm" / "sweep.sbatch", "runs.txt", "x=1", cwd=user, SLURM_ARRAY_TASK_ID="2", **shared)
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.splitlines()
    assert words[-3:] == ["x=1", "model.optim.lr=1e-5", "a=b c"]
    assert words.count(str(clone / ".venv" / "bin" / "python")) == 2  # check-nodes and train
    done = submitted(clone / "slurm" / "sweep.sbatch", "runs.txt", cwd=user, SLURM_ARRAY_TASK_ID="1", **shared)
    assert (done.returncode, done.stderr) == (2, "error: line 1 of runs.txt: expected overrides, found none\n")
    done = submitted(clone / "slurm" / "sweep.sbatch", "runs.txt", cwd=user, **shared)
    assert "SLURM_ARRAY_TASK_ID: submit with sbatch --array=1-N" in done.stderr


@pytest.mark.parametrize("job", ["train", "evaluate", "convert"])
def test_what_a_site_writes_may_use_variables_that_are_not_set(tmp_path: Path, job: str) -> None:
    site = tmp_path / "env.sh"
    site.write_text("export LD_LIBRARY_PATH=/site:$LD_LIBRARY_PATH\nPYTHON=(python3)\nSRUN_OPTIONS=()\n")
    script = REPO / "slurm" / f"{job}.sbatch"
    done = submitted(script, "export", cwd=tmp_path, NEMO_BT_ENV=str(site), NEMO_BT_COMMAND="")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python3" in done.stdout.splitlines()
    site.write_text("SRUN_OPTIONS=()\n")
    done = submitted(script, "export", cwd=tmp_path, NEMO_BT_ENV=str(site))
    assert done.returncode != 0
    assert "sets no PYTHON: keep the last lines of slurm/env.sh" in done.stderr


@pytest.mark.parametrize(
    ("override", "variables", "message"),
    [
        ("trainer.accelerator=gpu", {}, "this machine has 0 GPUs"),
        ("trainer.accelerator=auto", {}, "warning: these nodes have no GPU that the job can use: it trains on CPUs."),
        ("trainer.accelerator=cpu", {"MASTER_ADDR": "nowhere.invalid"}, "nowhere.invalid, does not resolve"),
        ("trainer.accelerator=cpu", {"NEMO_BT_CACHE": "/proc/none"}, "cache_dir: expected a folder with room to write"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run on")
def test_a_node_that_cannot_do_the_run_is_told_before_it(
    tmp_path: Path, override: str, variables: dict[str, str], message: str
) -> None:
    step = {"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}
    step |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NODELIST": "n1", "MASTER_ADDR": "127.0.0.1"}
    step |= {"SLURM_STEP_NUM_TASKS": "1", "SLURMD_NODENAME": "n1", "NEMO_BT_CACHE": str(tmp_path / "cache")} | variables
    settings = ["model=llama_4x256", f"exp_manager.explicit_log_dir={tmp_path / 'run'}", "model.data.train=x.jsonl"]
    done = nemo_bt("check-nodes", *settings, "model.tokenizer.type=x", override, **step)
    assert message in done.stderr
    assert done.returncode == (0 if message.startswith("warning") else 2)

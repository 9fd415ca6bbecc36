"""slurm/*.sbatch on a real Slurm of two nodes: the losses of a run without it, whatever happens to the job.

`make test` has the first test; `make test-slurm` has all, and keeps what the jobs printed in runs/slurm/.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.config.load import load_settings
from tests.support.launches import Plan, Planner
from tests.support.layouts import SP, TP2, checkpoint, common
from tests.support.runs import REPO, Run, full_tensors, metrics
from tests.support.slurm_cluster import NODES, Cluster, why_not

STEPS = 60
LAYOUT = [*TP2, *SP]
pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no Slurm here: {why_not()}")
whole_suite = pytest.mark.skipif("NEMO_BT_TEST_SLURM" not in os.environ, reason="minutes of jobs: make test-slurm")
MODEL = ["model=llama_quickstart", "model.hidden_size=64", "model.ffn_hidden_size=160"]
NOTE = "it's $HOME * a, b"


def overrides_of(dataset: Path, log_dir: Path) -> list[str]:
    saver = "exp_manager.checkpoint_callback_params"
    saving = [f"{saver}.every_n_train_steps=2", f"{saver}.async_save=true", "trainer.val_check_interval=10"]
    named = [key for key in common(dataset, log_dir, 4) if not key.startswith(("trainer.devices", "trainer.max_steps"))]
    return [*named, *MODEL, *LAYOUT, *saving, f"trainer.max_steps={STEPS}"]


def planned_runs(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    """The run that every job has to equal."""
    return {} if why_not() else {4: [Run([*overrides_of(dataset, folder / "local"), "trainer.devices=4"])]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    site = f'PYTHON=({sys.executable})\nSRUN_OPTIONS=()\nexport MASTER_ADDR=127.0.0.1 PYTHONPATH="{REPO}"\n'
    (made.folder / "env.sh").write_text(site)
    made.start()
    try:
        deadline_s = time.monotonic() + 60
        while made.run("sinfo", "--noheader", "-N", check=False).count("idle") < len(NODES):
            assert time.monotonic() < deadline_s, "the nodes do not come up"
            time.sleep(0.5)
        yield made
    finally:
        made.stop()
        for left in REPO.glob("slurm-*.stopped"):  # of a job that was cancelled
            left.unlink()
        if "NEMO_BT_TEST_SLURM" in os.environ:
            shutil.copytree(made.folder, REPO / "runs" / "slurm", dirs_exist_ok=True, ignore=_all_but_texts)


def _all_but_texts(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if Path(name).suffix not in (".log", ".out", ".sh", ".conf", "")}


def submit(
    cluster: Cluster, script: str, name: str, *argv: str, options: tuple[str, ...] = (), **variables: str
) -> int:
    size = ["--nodes=2", "--ntasks-per-node=2", "--time=10", f"--output={cluster.folder}/{name}.log"]
    env = {"NEMO_BT_ENV": str(cluster.folder / "env.sh"), "OMP_NUM_THREADS": "1"} | variables
    return cluster.submit(*size, *options, f"slurm/{script}.sbatch", *argv, env=env)


def printed(cluster: Cluster, name: str) -> str:
    return (cluster.folder / f"{name}.log").read_text()


def wait_for_steps(cluster: Cluster, job: int, log_dir: Path, number: int) -> None:
    looks = 0
    while len(metrics(log_dir, "train/loss")) < number or not saved_checkpoints(log_dir / "checkpoints"):
        looks += 1
        assert looks % 20 or cluster.state(job) in ("PENDING", "RUNNING"), cluster.state(job)
        assert looks < 3000
        time.sleep(0.05)


def assert_equals_the_local_run(log_dir: Path, local: Path) -> None:
    for key in ("step", "train/loss", "train/grad_norm", "train/lr", "val/held_out/loss"):
        assert metrics(log_dir, key) == metrics(local, key)
    expected, found = (full_tensors(checkpoint(folder, STEPS), prefix="") for folder in (local, log_dir))
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


@pytest.fixture(scope="module")
def local(launched: dict[Planner, Plan]) -> Path:
    return launched[planned_runs].folder / "local"


def test_a_job_that_is_requeued_continues_to_the_losses_of_the_local_run(
    cluster: Cluster, dataset: Path, local: Path, tmp_path: Path
) -> None:
    log_dir = tmp_path / "run"
    job = submit(
        cluster,
        "train",
        "requeued",
        *overrides_of(dataset, log_dir),
        f'+exp_manager.wandb_logger_kwargs.notes="{NOTE}"',
    )
    wait_for_steps(cluster, job, log_dir, 6)
    cluster.run("scontrol", "requeue", str(job))
    cluster.wait(job, "COMPLETED", "FAILED", timeout_s=240)
    said = printed(cluster, "requeued")
    assert cluster.state(job) == "COMPLETED", said
    assert said.count("2 nodes are alike: n1, n2") == 2
    assert "start 1: 2 nodes" in said
    assert re.search(r"resuming from .*reward-step\d+\.nemo", said)
    assert_equals_the_local_run(log_dir, local)
    assert load_settings("config", [], str(log_dir)).exp_manager.wandb_logger_kwargs == {"notes": NOTE}


@whole_suite
def test_a_job_that_reaches_its_time_limit_saves_and_continues(
    cluster: Cluster, dataset: Path, local: Path, tmp_path: Path
) -> None:
    """It would go on for hours: the second start is cancelled once it has gone beyond the first."""
    log_dir, few = tmp_path / "run", "exp_manager.checkpoint_callback_params.save_last_n=2"
    argv = [*overrides_of(dataset, log_dir), "trainer.max_steps=100000", "trainer.val_check_interval=100000", few]
    job = submit(cluster, "train", "time_limit", *argv, options=("--time=3", "--signal=USR1@60"))
    cluster.wait(job, "PENDING", "COMPLETED", "FAILED", "TIMEOUT", timeout_s=60)
    cluster.wait(job, "RUNNING", timeout_s=60)
    cluster.wait(job, "PENDING", "COMPLETED", "FAILED", "TIMEOUT", timeout_s=240)
    stopped = re.search(r"stopped by SIGUSR1 at step (\d+) of 100000 and saved", printed(cluster, "time_limit"))
    assert stopped, printed(cluster, "time_limit")[-2000:]
    assert "stopped by SIGUSR1: back to the queue" in printed(cluster, "time_limit")
    cluster.wait(job, "RUNNING", timeout_s=240)
    wait_for_steps(cluster, job, log_dir, int(stopped[1]) + 10)
    cluster.run("scancel", str(job))
    cluster.wait(job, "CANCELLED", timeout_s=60)
    losses, steps = metrics(log_dir, "train/loss"), metrics(log_dir, "step")
    assert losses[:STEPS] == metrics(local, "train/loss")
    assert steps == list(range(1, len(steps) + 1))
    assert f"resuming from {log_dir}/checkpoints/reward-step{stopped[1]}.nemo" in printed(cluster, "time_limit")


@whole_suite
def test_a_node_that_dies_ends_the_job_which_goes_back_to_the_queue(
    cluster: Cluster, dataset: Path, local: Path, tmp_path: Path
) -> None:
    log_dir = tmp_path / "run"
    job = submit(cluster, "train", "node_failure", *overrides_of(dataset, log_dir))
    wait_for_steps(cluster, job, log_dir, 6)
    cluster.kill_node("n2")
    cluster.wait(job, "PENDING", "REQUEUED", timeout_s=120)
    left = [one.pid for one in psutil.process_iter(["cmdline"]) if str(log_dir) in " ".join(one.info["cmdline"] or [])]
    cluster.start_node("n2")
    # What ended the first start waits for the node too, and would end the second, which has its number.
    cluster.wait(job, "COMPLETED", "FAILED", timeout_s=420, hurries=False)
    said = printed(cluster, "node_failure")
    assert cluster.state(job) == "COMPLETED", said
    assert left == []
    assert "start 1: 2 nodes" in said
    assert_equals_the_local_run(log_dir, local)


@whole_suite
def test_a_sweep_runs_a_line_of_overrides_in_each_job(cluster: Cluster, dataset: Path, tmp_path: Path) -> None:
    rates = [1e-4, 2e-4, 3e-4]
    lines = [f"exp_manager.explicit_log_dir={tmp_path}/{rate} 'model.optim.lr={rate}'" for rate in rates]
    (tmp_path / "runs.txt").write_text("\n".join(lines) + "\n")
    every = [*overrides_of(dataset, tmp_path / "unused"), "model.tensor_model_parallel_size=1", "trainer.max_steps=4"]
    options = ("--array=1-3%2", "--nodes=1", "--ntasks-per-node=1", f"--output={cluster.folder}/sweep-%a.log")
    job = submit(
        cluster, "sweep", "sweep", f"{tmp_path}/runs.txt", *every, "model.sequence_parallel=false", options=options
    )
    deadline_s = time.monotonic() + 240
    while cluster.run("squeue", "--noheader", "--jobs", str(job), check=False).strip():
        assert time.monotonic() < deadline_s
        time.sleep(1)
    for rate in rates:
        assert metrics(tmp_path / str(rate), "train/lr") == pytest.approx([rate] * 4)


@whole_suite
def test_a_node_that_differs_is_named_before_anything_starts(cluster: Cluster, dataset: Path, tmp_path: Path) -> None:
    """The second node has other code: its tasks import a copy with one more file."""
    copy = tmp_path / "copy"
    for folder in ("nemo_bt", "conf", "converters"):
        shutil.copytree(REPO / folder, copy / folder)
    (copy / "nemo_bt" / "changed.py").write_text("")
    site = (cluster.folder / "env.sh").read_text()
    which = f'[[ $SLURMD_NODENAME == n2 ]] && cd {copy} && export PYTHONPATH={copy}; exec {sys.executable} "$@"'
    (tmp_path / "env.sh").write_text(f"{site}PYTHON=(bash -c '{which}' python)\n")
    size = ["--nodes=2", "--ntasks-per-node=2", f"--output={cluster.folder}/differs.log"]
    argv = [*size, "slurm/train.sbatch", *overrides_of(dataset, tmp_path / "run")]
    job = cluster.submit(*argv, env={"NEMO_BT_ENV": str(tmp_path / "env.sh")})
    assert cluster.wait(job, "COMPLETED", "FAILED", timeout_s=120) == "FAILED"
    said = printed(cluster, "differs")
    assert said.count("error: the nodes of this job are not alike.") == 1
    assert re.search(r"node n2: code of nemo_bt is \w{12}; on 1 of 2 nodes it is \w{12}", said)
    assert "step 1/" not in said


@whole_suite
def test_checkpoints_are_converted_and_validated_in_jobs(cluster: Cluster, dataset: Path, tmp_path: Path) -> None:
    log_dir, one = tmp_path / "run", ("--nodes=1", "--ntasks-per-node=2")
    short = [*overrides_of(dataset, log_dir), "trainer.max_steps=2"]
    trained = submit(cluster, "train", "before", *short, options=one)
    cluster.wait(trained, "COMPLETED", "FAILED")
    saved = checkpoint(log_dir, 2)
    argv = ["export", "--input", str(saved), "--output", str(tmp_path / "exported")]
    converted = submit(cluster, "convert", "convert", *argv, options=("--nodes=1", "--ntasks-per-node=1"))
    data = [f"+model.data.validation.held_out={dataset / 'random_val.parquet'}", f"model.restore_from_path={saved}"]
    where = [f"exp_manager.explicit_log_dir={tmp_path / 'validated'}", "trainer.accelerator=cpu", *LAYOUT]
    validated = submit(cluster, "evaluate", "evaluate", *data, *where, options=one, NEMO_BT_COMMAND="validate")
    for job, name in ((converted, "convert"), (validated, "evaluate")):
        assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", printed(cluster, name)
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    assert metrics(tmp_path / "validated", "val/held_out/loss") == pytest.approx(
        metrics(log_dir, "val/held_out/loss"), rel=1e-6
    )

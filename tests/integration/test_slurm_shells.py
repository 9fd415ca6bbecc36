"""What is typed in an interactive allocation of a real Slurm: it starts its own ranks; srun there starts ranks too."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.layouts import common
from tests.support.runs import REPO, metrics
from tests.support.shells import typed
from tests.support.slurm_cluster import NODES, Cluster, why_not

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=f"no Slurm here: {why_not()}"),
    pytest.mark.skipif("NEMO_BT_TEST_SLURM" not in os.environ, reason="minutes of jobs: make test-slurm"),
]
TWO = ("--nodes=1", "--ntasks-per-node=2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    made.start()
    try:
        deadline_s = time.monotonic() + 60
        while made.run("sinfo", "--noheader", "-N", check=False).count("idle") < len(NODES):
            assert time.monotonic() < deadline_s, "the nodes do not come up"
            time.sleep(0.5)
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("allocation", "by", "ranks"),
    [
        (["srun", *TWO, "--pty", "bash", "--norc", "-i"], "", 2),
        (["srun", *TWO, "--job-name=mine", "--pty", "bash", "--norc", "-i"], "", 1),
        (["salloc", *TWO, "--job-name=mine", "bash", "--norc", "-i"], "", 1),
        (["salloc", *TWO, "bash", "--norc", "-i"], "", 2),
        (["salloc", "--nodes=1", "--ntasks=2", "bash", "--norc", "-i"], "srun", 2),
        (["srun", "--nodes=1", "--ntasks=2", "--pty", "bash", "--norc", "-i"], "srun --overlap", 2),
    ],
)
def test_a_run_that_is_typed_trains(
    cluster: Cluster, dataset: Path, tmp_path: Path, allocation: list[str], by: str, ranks: int
) -> None:
    model = ["model=llama_quickstart", "model.hidden_size=64", "model.ffn_hidden_size=160", "trainer.max_steps=2"]
    settings = [*common(dataset, tmp_path / "run", ranks), *model, f"trainer.devices={ranks}"]
    settings += ["trainer.start_timeout_s=40"]
    env = cluster.env | {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PS1": ""}
    (tmp_path / "command").write_text(f"{by} {sys.executable} -m nemo_bt train {' '.join(settings)}\n")
    said = typed(f". {tmp_path / 'command'}", allocation, env, timeout_s=120)
    assert len(metrics(tmp_path / "run", "train/loss")) == 2, said
    assert '"ranks": ' + str(ranks) in (tmp_path / "run" / "events.jsonl").read_text()

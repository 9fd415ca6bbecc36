"""check-nodes on three nodes that are processes of this machine: what they multiply and send is compared."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.runs import REPO, free_port

NODES = ("n1", "n2", "n3")
WRONG = """
import sys
from nemo_bt.cli import main, sniff
multiply = sniff._multiply
def wrong(a, b, expected, count):
    a = a.clone()
    a[3, 5] += 1
    multiply(a, b, expected, count)
sniff._multiply = wrong
sys.exit(main.run(sys.argv[1:]))
"""
"""A node whose memory or chip changes a number of a factor."""


def check(folder: Path, wrong: str | None = None) -> dict[str, subprocess.CompletedProcess[str]]:
    """What the task of each node ended with."""
    port = free_port()
    (folder / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    settings = ["model=llama_4x256", f"exp_manager.explicit_log_dir={folder / 'run'}", "model.tokenizer.type=x"]
    settings += [f"model.data.train={folder / 'pairs.jsonl'}", "trainer.accelerator=cpu"]
    tasks = {}
    for number, node in enumerate(NODES):
        step = {"SLURM_NODEID": str(number), "SLURM_PROCID": str(number), "SLURM_LOCALID": "0", "SLURM_NTASKS": "3"}
        step |= {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURMD_NODENAME": node}
        step |= {"SLURM_JOB_NODELIST": "n[1-3]", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env = os.environ | step | {"NEMO_BT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        program = ["-c", WRONG] if node == wrong else ["-m", "nemo_bt"]
        argv = [sys.executable, *program, "check-nodes", *settings]
        tasks[node] = subprocess.Popen(argv, cwd=REPO, env=env, stdout=-1, stderr=-1, text=True)
    shown = {node: task.communicate(timeout=120) for node, task in tasks.items()}
    return {node: subprocess.CompletedProcess(task.args, task.returncode, *shown[node]) for node, task in tasks.items()}


def test_rates_of_nodes_are_shown_beside_each_other(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert [one.returncode for one in done.values()] == [0, 0, 0], done
    first, line = done["n1"].stdout.splitlines()
    assert first.startswith("3 nodes are alike: n1, n2, n3 (")
    assert line.startswith("products and messages are right: float32 product ")
    tried = ("float32 product", "bfloat16 product", "all_reduce", "all_gather")
    assert [what for what in tried if f"{what} " in line] == list(tried)


def test_a_node_that_computes_wrong_is_named(tmp_path: Path) -> None:
    done = check(tmp_path, wrong="n2")
    assert done["n1"].returncode == 2
    said = done["n1"].stderr
    assert "devices of this job compute wrong. Leave them out." in said
    assert "node n2, cpu: float32 product gave " in said
    assert "node n2, cpu: bfloat16 product gave " in said
    assert "node n1" not in said
    assert "node n3" not in said

"""Resuming: nothing of a checkpoint is unpickled, by whomever, unless it is trusted."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launches import Logs
from tests.support.runs import Run


def overrides(dataset: Path, log_dir: Path, steps: int) -> list[str]:
    return [
        "model=llama_quickstart",
        "model.hidden_size=64",
        "model.ffn_hidden_size=160",
        f"model.data.train={dataset / 'random.parquet'}",
        f"model.tokenizer.type={dataset / 'tokenizer'}",
        "model.global_batch_size=16",
        "model.data.tokens_per_micro_batch=2048",
        "model.optim.name=distributed_fused_adam",
        "model.optim.sched.warmup_steps=0",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        f"trainer.max_steps={steps}",
        "exp_manager.resume_if_exists=true",
        f"exp_manager.explicit_log_dir={log_dir}",
    ]


def planned_runs(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    return {1: [Run(overrides(dataset, folder / "two_steps", 2))]}


def resumed(dataset: Path, log_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = ["train", *overrides(dataset, log_dir, 4), *more]
    command = [sys.executable, "-m", "tests.support.watched", str(log_dir / "looked_up.txt"), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.runs("two_steps")
def test_nothing_is_unpickled_unless_the_checkpoint_is_trusted(logs: Logs, dataset: Path, tmp_path: Path) -> None:
    looked_up = {}
    for is_trusted in ("false", "true"):
        log_dir = shutil.copytree(logs / "two_steps", tmp_path / is_trusted)
        result = resumed(dataset, log_dir, f"exp_manager.trust_checkpoint={is_trusted}")
        assert result.returncode == 0, result.stderr
        assert (log_dir / "checkpoints" / "reward-step4.nemo").exists()
        looked_up[is_trusted] = (log_dir / "looked_up.txt").read_text().split()
    assert looked_up["false"] == []
    assert "megatron.core.dist_checkpointing.strategies.torch.MCoreMetadata" in looked_up["true"]


@pytest.mark.runs("two_steps")
def test_a_checkpoint_that_runs_a_command_is_refused_in_one_line(logs: Logs, dataset: Path, tmp_path: Path) -> None:
    """Its manifest agrees with it, and it names nothing but getattr and PosixPath."""
    log_dir = shutil.copytree(logs / "two_steps", tmp_path / "log")
    poisoner = "import sys; from pathlib import Path; from tests.support.attacks import poison; "
    poisoner += "poison(Path(sys.argv[1]), sys.argv[2])"
    checkpoint = log_dir / "checkpoints" / "reward-step2.nemo"
    command = [sys.executable, "-W", "ignore", "-c", poisoner, str(checkpoint), f"touch {tmp_path / 'ran'}"]
    subprocess.run(command, check=True, timeout=100)
    result = resumed(dataset, log_dir)
    assert result.returncode == 2
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert "it names builtins.getattr, for something else than a member of an enumeration" in result.stderr
    assert not (tmp_path / "ran").exists()

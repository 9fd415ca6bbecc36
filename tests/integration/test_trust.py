"""Resuming: nothing of a checkpoint is unpickled, by whomever, unless it is trusted."""

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from nemo_bt.config.loss import LossSettings
from nemo_bt.pretrained.plain_checkpoint import check_plain
from nemo_bt.pretrained.resolve import find_pretrained
from tests.support.hf_models import save
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


@pytest.fixture
def weights(logs: Logs) -> Path:
    from nemo_bt.cpu import device as cpu

    cpu.install()  # before Megatron is imported
    return logs / "two_steps" / "checkpoints" / "reward-step2.nemo" / "weights"


@pytest.mark.runs("two_steps")
def test_megatron_gets_what_it_would_have_read_itself(weights: Path, tmp_path: Path) -> None:
    from nemo_bt.training.plain_loading import plain_loading

    checkpoint = shutil.copytree(weights.parent, tmp_path / "x.nemo")
    reader = FileSystemReader(checkpoint / "weights")
    written: Any = reader.read_metadata()
    flattened = written.mcore_data | {"optimizer.x": {"nd_reformulated_orig_global_shape": torch.Size((2, 3))}}
    (checkpoint / "weights" / ".metadata").write_bytes(pickle.dumps(replace(written, mcore_data=flattened)))
    unpickled: Any = reader.read_metadata()
    with plain_loading(checkpoint / "weights", check_plain(checkpoint)):
        plain: Any = reader.read_metadata()
    for name in ("state_dict_metadata", "storage_data", "mcore_data"):
        assert getattr(plain, name) == getattr(unpickled, name)
        assert len(getattr(plain, name)) > 20
    assert plain.storage_meta.load_id == reader.load_id


@pytest.mark.runs("two_steps")
def test_while_loading_nothing_else_is_read(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.load takes plain data whatever its caller asks for, or the environment."""
    from nemo_bt.training.plain_loading import plain_loading

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Path("x").resolve, tmp_path / "other.pt")
    before = dict(os.environ)
    with plain_loading(weights, check_plain(weights.parent)):
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "other.pt", weights_only=False)
        with pytest.raises(ValueError, match=r"expected to read .*, which was checked, got"):
            FileSystemReader(tmp_path).read_metadata()
    assert dict(os.environ) == before
    assert torch.load(tmp_path / "other.pt", weights_only=False)


def test_a_state_that_transformer_engine_would_unpickle_is_not_loaded(one_rank: None, tmp_path: Path) -> None:
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    pretrained = find_pretrained(str(save("qwen2", tmp_path / "hf")))
    model = RewardModel(reward_config(pretrained.architecture, seq_length=256), LossSettings())
    model._trainer = None
    model.configure_model()
    state = dict(model.state_dict())
    plain = {name: value for name, value in state.items() if "_extra_state" not in name}
    assert model.load_state_dict(plain).unexpected_keys == []
    hostile = {"module.decoder.layers.0.mlp.linear_fc1._extra_state": torch.zeros(4, dtype=torch.uint8)}
    with pytest.raises(RuntimeError, match=r"expected weights alone, got \['module\.decoder.*_extra_state'\]"):
        model.load_state_dict(plain | hostile)

"""What a trace needs of a machine, and what it says where that is missing."""

import json
import sys
from pathlib import Path

import pytest

from nemo_bt.config.load import load_settings
from nemo_bt.errors import UserError
from nemo_bt.phantom import build, wheel
from nemo_bt.phantom.start import trace, without_weights
from tests.support.hf_models import hf_config_of
from tests.support.settings import NEEDED, settings_of


@pytest.fixture
def torch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch that has nothing but its version."""
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    (tmp_path / "torch" / "version.py").write_text("__version__ = '9.0'\ncuda = '13.0'\n")
    monkeypatch.setattr(build, "_torch_folder", lambda: tmp_path / "torch")
    return tmp_path / "torch"


def test_a_torch_for_gpus_is_refused(torch_folder: Path, tmp_path: Path) -> None:
    (torch_folder / "lib" / "libtorch_cuda.so").touch()
    with pytest.raises(UserError, match=r"built for CPUs, got 9\.0 for CUDA 13\.0"):
        build.library(tmp_path)


def test_without_headers(torch_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs torch's headers, and .*Allocator.h is not there"):
        build.library(tmp_path)


def test_without_a_compiler(torch_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="needs g\\+\\+, which is not there"):
        build.library(tmp_path)


def test_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="needs torch"):
        build.library(tmp_path)


def test_what_does_not_compile_is_shown(torch_folder: Path, tmp_path: Path) -> None:
    header = torch_folder / "include" / "c10" / "core" / "Allocator.h"
    header.parent.mkdir(parents=True)
    header.touch()
    with pytest.raises(UserError, match=r"does not compile:\n.*CUDAHooksInterface\.h"):
        build.library(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.name.startswith("building-")] == []


def test_the_device_comes_before_torch(tmp_path: Path) -> None:
    assert "torch" in sys.modules
    with pytest.raises(RuntimeError, match="without torch"):
        build.load(tmp_path)


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path))
    assert build.cache_folder() == tmp_path / "phantom"


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(UserError, match=r"pip download --no-deps transformer-engine==2\.9\.0"):
        wheel.transformer_engine(tmp_path)


def test_a_wheel_that_is_unpacked_is_taken(tmp_path: Path) -> None:
    unpacked = tmp_path / "transformer_engine-2.9.0"
    unpacked.mkdir()
    assert wheel.transformer_engine(tmp_path) == unpacked


def test_a_run_on_cpus_is_none_to_trace(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer.accelerator=cpu: a trace is of a run on GPUs"):
        trace(settings_of("trainer.accelerator=cpu"), 0, 1, tmp_path, tmp_path)


def test_a_rank_that_the_job_has_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rank: expected 0 to 3, got 4"):
        trace(settings_of("trainer.devices=4"), 4, 1, tmp_path, tmp_path)


def test_a_run_with_numbers_has_one_rank(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a run with numbers is of one rank, got 4: set trainer\.devices=1"):
        trace(settings_of("trainer.devices=4"), 0, 1, tmp_path, tmp_path, numbers=True)


def test_a_traced_run_writes_to_its_own_folder_and_tracks_nothing(tmp_path: Path) -> None:
    settings = without_weights(settings_of("exp_manager.create_wandb_logger=true"), tmp_path, 2)
    assert settings.exp_manager.log_dir == tmp_path
    assert not settings.exp_manager.create_wandb_logger
    assert settings.trainer.accelerator == "gpu"


def test_a_traced_run_takes_of_a_model_what_it_is_and_its_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(hf_config_of("qwen3")))
    given = load_settings("train", [*NEEDED[:2], f"model.restore_from_path={tmp_path}"])
    settings = without_weights(given, tmp_path / "run", 2)
    assert settings.model.restore_from_path is None
    assert settings.model.tokenizer.type == str(tmp_path)
    assert settings.model.hf_config["model_type"] == "qwen3"

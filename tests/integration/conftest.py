"""What tests share that start processes or import NeMo."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.support.hf_models import save
from tests.support.launches import Logs, Plan, Planner, launch
from tests.support.runs import convert, nemo_bt, training


@pytest.fixture(scope="session")
def launched(
    request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Planner, Plan]:
    """Runs that the selected tests read, trained: one launch for each number of ranks."""
    tests = [item for item in request.session.items if "launched" in item.fixturenames]
    return launch(tests, dataset, tmp_path_factory.mktemp("launched"))


@pytest.fixture
def logs(request: pytest.FixtureRequest, launched: dict[Planner, Plan]) -> Logs:
    """Log directories of the runs that the test reads."""
    plan = launched[request.module.planned_runs]
    return Logs(plan.folder, plan.read_by(request.node))


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """Megatron in this process, a world of one rank on the CPU."""
    from nemo_bt.cpu import device as cpu

    cpu.install()
    from megatron.core import parallel_state, tensor_parallel

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    yield
    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def converters_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converters")


@pytest.fixture(scope="session")
def base(converters_folder: Path, tokenizer: Any) -> Path:
    """A causal language model in bf16, with a tokenizer that says itself which inputs it makes."""
    names = ["input_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path, model_input_names=names)
    folder = save("qwen3", converters_folder / "base", classifier=False, dtype=torch.bfloat16, tokenizer=tokenizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))  # as base models have it
    return folder


@pytest.fixture(scope="session")
def packed(converters_folder: Path, base: Path) -> tuple[Path, str]:
    """The base as a reward model in one file, and what the command said."""
    result = convert("hf_to_nemo", "--input", base, "--output", converters_folder / "base.nemo", "--pack")
    assert result.returncode == 0, result.stderr
    return converters_folder / "base.nemo", result.stdout


@pytest.fixture(scope="session")
def trained(converters_folder: Path, packed: tuple[Path, str], dataset: Path) -> tuple[Path, str]:
    """Log directory of five steps on it, and what the command said."""
    start = shutil.copy(packed[0], converters_folder / "start.nemo")
    argv = training(dataset, converters_folder / "run", start)
    result = nemo_bt(*argv, "trainer.max_steps=5")
    assert result.returncode == 0, result.stdout + result.stderr
    return converters_folder / "run", result.stdout


@pytest.fixture(scope="session")
def exported(converters_folder: Path, trained: tuple[Path, str]) -> Path:
    checkpoint, out = trained[0] / "checkpoints" / "reward-step5.nemo", converters_folder / "exported"
    result = convert("nemo_to_hf", "--input", checkpoint, "--output", out)
    assert result.returncode == 0, result.stderr
    assert "tolerance 1e-04" in result.stdout
    return out

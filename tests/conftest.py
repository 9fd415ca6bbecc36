import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck
from transformers import AutoTokenizer

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from tests.support.hf_models import save
from tests.support.preferences import write_sets
from tests.support.runs import convert, nemo_bt, run_together

# The same examples in every run: HYPOTHESIS_PROFILE=explore looks for new ones.
same = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
hypothesis.settings.register_profile("same", derandomize=True, **same)
hypothesis.settings.register_profile("explore", max_examples=1000, **same)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


_STARTS_PROCESSES = ("nemo_bt", "torchrun", "convert", "disturb", "subprocess")
"""What a module that starts some has imported."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, modules that share a costly fixture of the session run in one of them.

    What takes long comes first: at the end no process waits for another's last test.
    """
    shared = {}
    for item in items:
        for fixture in {"launched", "converters_folder"} & set(item.fixturenames):
            shared[item.module] = fixture
    for item in items:
        item.add_marker(pytest.mark.xdist_group(shared.get(item.module, item.module.__name__)))
    items.sort(key=lambda item: (shared.get(item.module) != "launched", not _starts_processes(item)))


def _starts_processes(item: pytest.Item) -> bool:
    return any(hasattr(item.module, name) for name in _STARTS_PROCESSES)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests, and the commands that they start, leave the user's cache alone."""
    os.environ["NEMO_BT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tests.support.preferences.write_sets."""
    folder = tmp_path_factory.mktemp("data")
    write_sets(folder)
    return folder


@pytest.fixture(scope="session")
def launched(request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a folder for each module that plans runs: one launch for each number of ranks has them all.

    Test modules that name the same function share its runs.
    """
    folder = tmp_path_factory.mktemp("launched")
    modules = {item.module for item in request.session.items}
    functions = {module.planned_runs for module in modules if hasattr(module, "planned_runs")}
    plans = []
    for planned_runs in sorted(functions, key=lambda function: function.__module__):
        name = planned_runs.__module__.rpartition(".")[2]
        (folder / name).mkdir()
        plans.append(planned_runs(dataset, folder / name))
    for num_ranks in sorted({num_ranks for plan in plans for num_ranks in plan}):
        runs = [run for plan in plans for run in plan.get(num_ranks, [])]
        run_together(num_ranks, runs, folder, timeout_s=580)
    return folder


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
def tokenizer(dataset: Path) -> Any:
    return load_tokenizer(str(dataset / "tokenizer"), None)


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


def training(dataset: Path, log_dir: Path, start: Path | str) -> list[str]:
    """nemo-bt train on the random pairs."""
    return [
        "train",
        f"model.restore_from_path={start}",
        f"model.data.train={dataset / 'random.parquet'}",
        f"+model.data.validation.held_out={dataset / 'random_val.parquet'}",
        f"exp_manager.explicit_log_dir={log_dir}",
        "trainer.accelerator=cpu",
        "model.optim.lr=1e-3",
        "model.optim.sched.warmup_steps=0",
        "model.encoder_seq_length=512",
    ]


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

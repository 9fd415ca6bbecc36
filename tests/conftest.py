from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.data.synthetic import write_dataset
from nemo_bt.data.tokenizer import load_tokenizer
from tests.preferences import write_random_pairs


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tokenizer, the synthetic set, and random.parquet / random_val.parquet of varied lengths."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder)
    write_random_pairs(folder / "random.parquet", 100, seed=1)
    write_random_pairs(folder / "random_val.parquet", 37, seed=2)
    return folder


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """Megatron in this process, a world of one rank on the CPU."""
    import torch

    from nemo_bt import cpu

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

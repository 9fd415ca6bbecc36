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


@pytest.fixture(scope="session")
def tokenizer(dataset: Path) -> Any:
    return load_tokenizer(str(dataset / "tokenizer"), None)

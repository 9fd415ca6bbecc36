"""A folder with a tokenizer and pairs of random lengths, for benchmarks that train on the data of the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

from nemo_bt.data.synthetic import write_dataset
from tests.support.preferences import write_random_pairs


def make_random_set(folder: Path, num_train: int, num_validation: int) -> Path:
    """Empty the folder, write tokenizer/, random.parquet and random_val.parquet, and give its absolute path."""
    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_dataset(folder)
    write_random_pairs(folder / "random.parquet", num_train, seed=1)
    write_random_pairs(folder / "random_val.parquet", num_validation, seed=2)
    return folder

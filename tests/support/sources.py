"""Write preference files and open them as a data set."""

import copy
import gzip
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.load import load_settings
from nemo_bt.config.model import Settings
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.observability.terminal import Terminal


def write(path: Path, rows: list[Any]) -> str:
    """Rows in the kind of file that the name says; lines of bytes stand in a JSONL file as they are."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        lines = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
        if path.suffix == ".zst":
            with pa.CompressedOutputStream(str(path), "zstd") as out:
                out.write(lines)
        else:
            path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)


@cache
def settings_with(*overrides: str) -> Settings:
    """Settings of a run on a source that is put in later."""
    needed = ["exp_manager.explicit_log_dir=run", "model.data.train=unused", "model.tokenizer.type=unused"]
    return load_settings("train", ["model=llama_4x256", *needed, *overrides])


def open_set(path: str, tokenizer: Any, /, *overrides: str, terminal: Terminal | None = None, **source: Any) -> PairSet:
    """The training set of one source: `overrides` of the configuration, `source` keys of the source."""
    settings = settings_with(*overrides)
    data = replace(settings.model.data, train=[SourceSettings(**({"path": path} | source))])
    settings = replace(settings, model=replace(settings.model, data=data))
    own = copy.deepcopy(tokenizer)  # a template may be put into it
    return load_sets(settings, own, False, terminal or Terminal(None))["train"]


def conversations(pairs: PairSet, pair: int) -> list[np.ndarray]:
    """Ids of the chosen and the rejected conversation of a pair, whole."""
    (group,) = pairs.groups([pair])
    return [np.concatenate([group.prefix, group.continuations[side]]) for side in group.comparisons[0].sides]


def texts(pairs: PairSet, tokenizer: Any) -> list[tuple[str, str]]:
    """Chosen and rejected of every pair, decoded."""
    return [tuple(map(tokenizer.decode, conversations(pairs, i))) for i in range(sum(map(len, pairs.sources)))]


def dropped(pairs: PairSet) -> dict[str, int]:
    """What was left out, by reason."""
    (drop_report,) = pairs.accounts
    return dict(drop_report.dropped)


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir() and path.name != "digests")

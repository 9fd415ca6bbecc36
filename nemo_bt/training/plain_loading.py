"""Resuming without trust: Megatron loads a checkpoint by what the check has read of it, and unpickles nothing.

Importing this file imports Megatron.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies.torch import MCoreMetadata
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

from nemo_bt.model.reward_gpt import replaced
from nemo_bt.pretrained.torch_dist_records import Place, Records

_FORCED, _FORBIDDEN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""Variables that torch.load asks at each call. Source: torch/serialization.py, load."""


@contextmanager
def plain_loading(weights: Path, records: Records) -> Iterator[None]:
    """Have whatever loads a checkpoint in a with block take its records from here, and tensors and plain data alone.

    Args:
        weights: folder that may be read from.
        records: what `check_plain` found there.
    """
    metadata = as_metadata(records)

    def read_metadata(reader: FileSystemReader, *_: Any, **__: Any) -> dcp.Metadata:
        if Path(reader.path) != weights:
            raise ValueError(f"expected to read {weights}, which was checked, got {reader.path}")
        metadata.storage_meta = dcp.StorageMeta(load_id=reader.load_id)
        return metadata

    with replaced(FileSystemReader, "read_metadata", read_metadata), _weights_only():
        yield


@contextmanager
def _weights_only() -> Iterator[None]:
    """Have torch.load take tensors and plain data alone, whatever its caller asks for."""
    before = {name: os.environ.pop(name, None) for name in (_FORCED, _FORBIDDEN)}
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCED]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def as_metadata(records: Records) -> MCoreMetadata:
    """Make the objects that torch and Megatron want, of numbers and names that were looked at."""
    places: dict[tuple[str, tuple[int, ...] | None], Place] = {(n, None): at for n, at in records.objects.items()}
    entries: dict[str, Any] = {name: dcp.BytesStorageMetadata() for name in records.objects}
    for name, stored in records.tensors.items():
        chunks = [dcp.ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes)) for c in stored.chunks]
        properties = dcp.TensorProperties(dtype=stored.dtype)
        entries[name] = dcp.TensorStorageMetadata(properties, torch.Size(stored.shape), chunks)
        places |= {(name, chunk.offsets): chunk.place for chunk in stored.chunks}
    return MCoreMetadata(
        state_dict_metadata=entries,
        storage_data={
            dcp.MetadataIndex(name, offsets): _StorageInfo(at.file, at.offset, at.length)
            for (name, offsets), at in places.items()
        },
        mcore_data={
            name: {} if shape is None else {"nd_reformulated_orig_global_shape": shape}
            for name, shape in records.unflattened.items()
        },
    )

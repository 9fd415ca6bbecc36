"""`.metadata` of a Megatron distributed checkpoint, read as plain data: where each tensor lies.

Here is what reads it, before a resume and in it. Every field is looked at before it is used.

Source: torch/distributed/checkpoint/metadata.py, filesystem.py; megatron/core/dist_checkpointing/strategies/torch.py.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import torch

from nemo_bt.pretrained.plain_pickle import Record, read_pickle, whole_numbers

_MAX_BYTES = 2**28
"""Largest file that is read. One of 1,024 ranks and 10,000 parameters has about a thirtieth of it."""
_FILE = re.compile(r"__\d+_\d+\.distcp")


@dataclass(frozen=True)
class Place:
    """Where torch.save wrote an object: a file of the checkpoint, and bytes in it; length -1 is all of them."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor, which a rank has written."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Place


@dataclass(frozen=True)
class Stored:
    """A tensor: its shape, its dtype and its chunks, which lie within it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Records:
    """What a checkpoint has, by Megatron's names.

    Args:
        tensors: the model's and the optimizer's.
        objects: what is no tensor.
        unflattened: shapes that tensors had before they were flattened; None where they were not.
    """

    tensors: dict[str, Stored] = field(default_factory=dict)
    objects: dict[str, Place] = field(default_factory=dict)
    unflattened: dict[str, tuple[int, ...] | None] = field(default_factory=dict)


def read_records(file: BinaryIO) -> Records:
    """Read `.metadata`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not the record of a checkpoint; nothing of it was run.
    """
    data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    return _records(read_pickle(data))


def _records(metadata: Any) -> Records:
    """Look at every field that is used; of the others nothing is taken."""
    stored = _fields(metadata, "Metadata", "MCoreMetadata")
    places = {}
    for index, place in _dict(stored, "storage_data").items():
        at = _fields(index, "MetadataIndex")
        offset = at.get("offset")
        key = _text(at, "fqn"), None if offset is None else whole_numbers(offset, "offset")
        places[key] = _place(_fields(place, "_StorageInfo"))
    records = Records()
    for name, entry in _dict(stored, "state_dict_metadata").items():
        if type(name) is not str:
            raise ValueError("a tensor has no name")
        if isinstance(entry, Record) and entry.name.endswith(".BytesStorageMetadata"):
            records.objects[name] = _at(places, name, None)
        else:
            records.tensors[name] = _tensor(name, _fields(entry, "TensorStorageMetadata"), places)
    of_megatron = _dict(stored, "mcore_data") if stored.get("mcore_data") else {}
    for name, facts in of_megatron.items():
        if type(name) is not str:
            raise ValueError("mcore_data: a tensor has no name")
        shape = facts.get("nd_reformulated_orig_global_shape") if type(facts) is dict else None
        if shape is not None:
            shape = whole_numbers(shape, "nd_reformulated_orig_global_shape")
        records.unflattened[name] = shape
    return records


def _tensor(name: str, entry: dict[str, Any], places: dict[Any, Place]) -> Stored:
    shape = whole_numbers(entry.get("size"), "size")
    properties = entry.get("properties")
    state = properties.state if isinstance(properties, Record) else None
    dtype = state[0] if type(state) is tuple and state else None
    if not isinstance(dtype, torch.dtype) or type(entry.get("chunks")) is not list:
        raise ValueError(f"{name[:100]}: expected a dtype and a list of chunks")
    if math.prod(shape) >= 2**63:
        raise ValueError(f"{name[:100]}: a shape of {shape}")
    chunks = []
    for part in entry["chunks"]:
        chunk = _fields(part, "ChunkStorageMetadata")
        offsets, sizes = (whole_numbers(chunk.get(key), key) for key in ("offsets", "sizes"))
        is_within = len(offsets) == len(sizes) == len(shape) and all(
            offset + size <= side for offset, size, side in zip(offsets, sizes, shape, strict=True)
        )
        place = _at(places, name, offsets)
        if not is_within or math.prod(sizes) * dtype.itemsize > place.length:
            raise ValueError(f"{name[:100]}: a chunk of {sizes} at {offsets} does not fit in {shape}, or in its bytes")
        chunks.append(Chunk(offsets, sizes, place))
    return Stored(shape, dtype, tuple(chunks))


def _at(places: dict[Any, Place], name: str, offsets: tuple[int, ...] | None) -> Place:
    if (name, offsets) not in places:
        raise ValueError(f"{name[:100]} at {offsets} is in no file")
    return places[name, offsets]


def _place(place: dict[str, Any]) -> Place:
    file = _text(place, "relative_path")
    if not _FILE.fullmatch(file):
        raise ValueError(f"{file[:100]!r} is not a file of weights/")
    if place.get("transform_descriptors"):
        raise ValueError(f"{file} is compressed")
    offset, length = whole_numbers((place.get("offset"), place.get("length")), "a place")
    return Place(file, offset, length)


def _fields(record: Any, *names: str) -> dict[str, Any]:
    if not isinstance(record, Record) or record.name.rpartition(".")[2] not in names or type(record.state) is not dict:
        raise ValueError(f"expected {names[0]} with its fields, got {type(record).__name__.strip('_').lower()}")
    return cast(dict[str, Any], record.state)


def _dict(fields: dict[str, Any], key: str) -> dict[Any, Any]:
    if type(fields.get(key)) is not dict:
        raise ValueError(f"{key}: expected a dict")
    return cast(dict[Any, Any], fields[key])


def _text(fields: dict[str, Any], key: str) -> str:
    if type(fields.get(key)) is not str:
        raise ValueError(f"{key}: expected a text")
    return cast(str, fields[key])

"""Tensors of a Megatron distributed checkpoint (`torch_dist`), read without running anything that it pickles.

`.metadata` is a pickle. It is read with an unpickler that knows sealed stand-ins for the records of torch's and
Megatron's checkpoints and nothing else; tensors are read by torch.load with weights_only. The rest (`common.pt`, extra
states) is not opened.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nemo_bt.errors import UserError, first_line
from nemo_bt.pretrained.names import LOG_TIE
from nemo_bt.pretrained.source import Region, TensorInfo, whole

PREFIX = "module."
"""Start of the names of the model's tensors; the optimizer's have another."""

FORMAT = (
    '{"sharded_backend": "torch_dist", "sharded_backend_version": 1, '
    '"common_backend": "torch", "common_backend_version": 1}'
)
"""Text of metadata.json. Source: megatron/core/dist_checkpointing/core.py, CheckpointingConfig."""


@dataclass(frozen=True)
class _Place:
    """Where torch.save wrote an object: a file of the checkpoint, and bytes in it."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class _Chunk:
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: _Place


class TorchDist:
    """A `TensorSource` over the model's tensors, by Megatron's names without `module.`; a loss's own is none of them.

    Args:
        open_file: opens a file of the checkpoint's `weights` folder by name.
        name: the checkpoint, for messages.
    """

    def __init__(self, open_file: Callable[[str], BinaryIO], name: str) -> None:
        self._open = open_file
        self._name = name
        self.infos: dict[str, TensorInfo] = {}
        self._chunks: dict[str, list[_Chunk]] = {}
        self._objects: dict[str, _Place] = {}
        metadata = self._read_metadata()
        try:
            self._index(metadata.state_dict_metadata, metadata.storage_data)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{name}: weights/.metadata is not consistent ({error!r}): save it again.") from error

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Put a tensor or a part of it together from the chunks that ranks have written."""
        info = self.infos[name]
        bounds = whole(region, info.shape)
        for chunk in self._chunks[name]:
            if [(offset, offset + size) for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)] == bounds:
                return self._read_chunk(name, chunk)  # the chunk is just what was asked for: it is not copied
        out = torch.empty([stop - start for start, stop in bounds], dtype=info.dtype)
        filled = 0
        for chunk in self._chunks[name]:
            common = [
                (max(start, offset), min(stop, offset + size))
                for (start, stop), offset, size in zip(bounds, chunk.offsets, chunk.sizes, strict=True)
            ]
            if any(start >= stop for start, stop in common):
                continue
            inside = tuple(slice(a - o, b - o) for (a, b), o in zip(common, chunk.offsets, strict=True))
            target = tuple(slice(a - s, b - s) for (a, b), (s, _) in zip(common, bounds, strict=True))
            out[target] = self._read_chunk(name, chunk)[inside]
            filled += out[target].numel()
        if filled != out.numel():
            raise UserError(f"{self._name}: {name} has {filled} of {out.numel()} values of {region}: it is not whole.")
        return out

    def check_objects(self) -> None:
        """Check that entries which are not tensors, and `common.pt`, are plain data: Megatron unpickles them."""
        for name, place in self._objects.items():
            self._load(name, place)
        self._load("common.pt", _Place("common.pt", 0, -1))

    def _index(self, stored: dict[str, Any], places: dict[Any, Any]) -> None:
        located = {
            (index.fqn, None if index.offset is None else tuple(index.offset)): _Place(
                str(place.relative_path), int(place.offset), int(place.length)
            )
            for index, place in places.items()
        }
        for key, entry in stored.items():
            if not isinstance(entry, _TensorRecord):
                self._objects[key] = located[key, None]
            elif key.startswith(PREFIX) and (name := key.removeprefix(PREFIX)) != LOG_TIE:
                self.infos[name] = TensorInfo(tuple(map(int, entry.size)), entry.properties.dtype)
                self._chunks[name] = [
                    _Chunk(tuple(chunk.offsets), tuple(chunk.sizes), located[key, tuple(chunk.offsets)])
                    for chunk in entry.chunks
                ]

    def _read_chunk(self, name: str, chunk: _Chunk) -> Tensor:
        tensor = self._load(name, chunk.place)
        if not isinstance(tensor, Tensor) or tensor.shape != chunk.sizes or tensor.dtype != self.infos[name].dtype:
            raise UserError(
                f"{self._name}: {name}: expected {self.infos[name]}, in chunks of {chunk.sizes}; got another."
            )
        return tensor

    def _load(self, name: str, place: _Place) -> Any:
        """Load what torch.save wrote there, if it is tensors and plain data."""
        try:
            with self._open(place.file) as file:
                file.seek(place.offset)
                data = file.read(place.length)
            if place.length >= 0 and len(data) != place.length:
                raise EOFError(f"{place.length} bytes at {place.offset} of {place.file}, got {len(data)}")
            return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            raise UserError(f"{self._name}: {name} cannot be read: {first_line(error)}") from error

    def _read_metadata(self) -> Any:
        try:
            with self._open(".metadata") as file:
                return _RecordsOnly(file).load()
        except OSError as error:
            raise UserError(
                f"{self._name}: expected weights/.metadata, got {error!r}. Is it a NeMo 2 checkpoint?"
            ) from error
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            raise UserError(
                f"{self._name}: weights/.metadata is not the record of a torch_dist checkpoint ({first_line(error)}). "
                "It was not loaded. Use a checkpoint from someone you trust."
            ) from error


class _Sealed(type):
    """A class that a pickle cannot change."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets {name} of {cls.__name__}")


class _Record(metaclass=_Sealed):
    """Stands for a dataclass: takes its fields, and arguments that nobody reads; has no code."""

    def __new__(cls, *_: Any) -> _Record:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...


class _TensorRecord(_Record):
    """TensorStorageMetadata: properties, size, chunks."""

    size: tuple[int, ...]
    properties: Any
    chunks: list[Any]


class _IndexRecord(_Record):
    """MetadataIndex: fqn and offset; a key of storage_data."""

    fqn: str
    offset: tuple[int, ...] | None = None

    def __hash__(self) -> int:
        return hash((self.fqn, self.offset))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _IndexRecord) and (self.fqn, self.offset) == (other.fqn, other.offset)


class _PropertiesRecord(_Record):
    """TensorProperties, whose state is a tuple that starts with the dtype."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = state[0]


class _Size(metaclass=_Sealed):
    def __new__(cls, sizes: Any = ()) -> Any:
        return tuple(sizes)


_TORCH = "torch.distributed.checkpoint."
_MEGATRON = "megatron.core.dist_checkpointing.strategies.torch"
_RECORDS: dict[tuple[str, str], Any] = {
    ("torch", "Size"): _Size,
    ("torch.serialization", "_get_layout"): _Record,
    ("collections", "OrderedDict"): dict,
    ("pathlib", "PosixPath"): _Record,
    ("builtins", "getattr"): _Record,  # early releases of Python 3.11 pickle enumerations so; getattr is not called
    (f"{_TORCH}filesystem", "_StorageInfo"): _Record,
    (f"{_TORCH}metadata", "TensorStorageMetadata"): _TensorRecord,
    (f"{_TORCH}metadata", "MetadataIndex"): _IndexRecord,
    (f"{_TORCH}metadata", "TensorProperties"): _PropertiesRecord,
    **{
        (f"{_TORCH}metadata", name): _Record
        for name in ("Metadata", "StorageMeta", "BytesStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING")
    },
    **{(f"{_TORCH}planner", name): _Record for name in ("SavePlan", "WriteItem", "TensorWriteData", "WriteItemType")},
    **{(_MEGATRON, name): _Record for name in ("MCoreMetadata", "MCoreSavePlan")},
}


class _RecordsOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Find stand-ins for the records of checkpoints, and dtypes; anything else stops the load before it runs."""
        if (module, name) in _RECORDS:
            return _RECORDS[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")

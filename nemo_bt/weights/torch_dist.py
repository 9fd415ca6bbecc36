"""Tensors of a Megatron distributed checkpoint (`torch_dist`), read without running anything that it pickles.

`.metadata` is a pickle. It is read with an unpickler that knows the records of torch's and Megatron's checkpoints and
nothing else; tensors are read by torch.load with weights_only. The rest (`common.pt`, extra states) is never opened.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
import torch.distributed.checkpoint.filesystem as dcp_filesystem
import torch.distributed.checkpoint.metadata as dcp_metadata
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.weights.source import Region, TensorInfo, whole

PREFIX = "module."
"""In front of the model's tensors; the optimizer's have another."""


class TorchDist:
    """A `TensorSource` over the model's tensors, by Megatron's names without `module.`.

    Args:
        open_file: opens a file of the checkpoint's `weights` folder by name.
        name: of the checkpoint, for messages.

    Raises:
        UserError: the metadata is missing, cut short, or asks for code to run.
    """

    def __init__(self, open_file: Callable[[str], BinaryIO], name: str) -> None:
        self._open, self._name = open_file, name
        metadata = self._read_metadata()
        self._stored = metadata.state_dict_metadata
        self._chunks = {
            key.removeprefix(PREFIX): stored
            for key, stored in self._stored.items()
            if key.startswith(PREFIX) and isinstance(stored, dcp_metadata.TensorStorageMetadata)
        }
        self._places = metadata.storage_data
        self.infos = {
            key: TensorInfo(tuple(stored.size), stored.properties.dtype) for key, stored in self._chunks.items()
        }

    def read(self, name: str, region: Region = ()) -> Tensor:
        """The tensor, or a part of it, put together from the chunks that ranks have written.

        Raises:
            UserError: a file is missing or cut short, or chunks leave a part out.
        """
        info = self.infos[name]
        bounds = whole(region, info.shape)
        for chunk in self._chunks[name].chunks:
            if [(offset, offset + size) for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)] == bounds:
                return self._read_chunk(name, chunk)  # just what was asked for: not copied
        out = torch.empty([stop - start for start, stop in bounds], dtype=info.dtype)
        filled = 0
        for chunk in self._chunks[name].chunks:
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
        """Check that entries which are not tensors, and `common.pt`, are plain data: Megatron unpickles them.

        Raises:
            UserError: one of them asks for more than plain data.
        """
        for index, place in self._places.items():
            if isinstance(self._stored[index.fqn], dcp_metadata.BytesStorageMetadata):
                self._load(index.fqn, place.relative_path, place.offset, place.length)
        self._load("common.pt", "common.pt", 0, None)

    def _read_chunk(self, name: str, chunk: dcp_metadata.ChunkStorageMetadata) -> Tensor:
        place = self._places[dcp_metadata.MetadataIndex(PREFIX + name, chunk.offsets)]
        tensor = self._load(name, place.relative_path, place.offset, place.length)
        if not isinstance(tensor, Tensor) or tensor.shape != chunk.sizes or tensor.dtype != self.infos[name].dtype:
            raise UserError(
                f"{self._name}: {name}: expected {self.infos[name]}, in chunks of {chunk.sizes}; got another."
            )
        return tensor

    def _load(self, name: str, file_name: str, offset: int, length: int | None) -> Any:
        """What torch.save wrote there, if it is tensors and plain data."""
        try:
            with self._open(file_name) as file:
                file.seek(offset)
                data = file.read() if length is None else file.read(length)
            if length is not None and len(data) != length:
                raise EOFError(f"{length} bytes at {offset} of {file_name}, got {len(data)}")
            return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
            raise UserError(f"{self._name}: {name} cannot be read: {str(error).splitlines()[0]}") from error

    def _read_metadata(self) -> Any:
        try:
            with self._open(".metadata") as file:
                metadata = _RecordsOnly(file).load()
        except (OSError, EOFError, KeyError) as error:
            raise UserError(
                f"{self._name}: expected weights/.metadata, got {error!r}. Is it a NeMo 2 checkpoint?"
            ) from error
        except (pickle.UnpicklingError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"{self._name}: weights/.metadata is not the record of a torch_dist checkpoint ({error}). It was not "
                "loaded. Use a checkpoint from someone you trust."
            ) from error
        if not isinstance(metadata, _Record) and not isinstance(metadata, dcp_metadata.Metadata):
            raise UserError(f"{self._name}: weights/.metadata: expected a record of tensors, got {type(metadata)}.")
        return metadata


class _Record:
    """Stands for a dataclass of Megatron's; takes fields, has no code."""


_RECORDS: dict[tuple[str, str], Any] = {
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): dcp_filesystem._StorageInfo,
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"): _Record,
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"): _Record,
    ("torch.distributed.checkpoint.planner", "SavePlan"): _Record,
    ("torch.distributed.checkpoint.planner", "WriteItem"): _Record,
    ("torch.distributed.checkpoint.planner", "TensorWriteData"): _Record,
    ("torch.distributed.checkpoint.planner", "WriteItemType"): lambda value: value,
    ("collections", "OrderedDict"): dict,
    ("pathlib", "PosixPath"): lambda *parts: "/".join(parts),
} | {
    ("torch.distributed.checkpoint.metadata", name): getattr(dcp_metadata, name)
    for name in (
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "_MEM_FORMAT_ENCODING",
    )
}


class _RecordsOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Records of checkpoints and dtypes; anything else stops the load before it is called."""
        if (module, name) in _RECORDS:
            return _RECORDS[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")

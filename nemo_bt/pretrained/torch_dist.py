"""Tensors of a Megatron distributed checkpoint (`torch_dist`), read without running anything that it pickles.

`torch_dist_records` reads where tensors lie, torch.load with weights_only reads them. The rest (`common.pt`, objects)
is opened for a check alone.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from nemo_bt.errors import UserError, first_line
from nemo_bt.pretrained.names import LOG_TIE
from nemo_bt.pretrained.source import Region, TensorInfo, whole
from nemo_bt.pretrained.torch_dist_records import Chunk, Place, Records, read_records

PREFIX = "module."
"""Start of the names of the model's tensors; the optimizer's have another."""

FORMAT = (
    '{"sharded_backend": "torch_dist", "sharded_backend_version": 1, '
    '"common_backend": "torch", "common_backend_version": 1}'
)
"""Text of metadata.json. Source: megatron/core/dist_checkpointing/core.py, CheckpointingConfig."""


_FLOATS = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError),
    *(MemoryError, OverflowError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error),
)
"""What torch.load raises for bytes that torch.save did not write."""


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
        self._chunks: dict[str, tuple[Chunk, ...]] = {}
        self.records = self._read_records()
        for key, stored in self.records.tensors.items():
            if key.startswith(PREFIX) and (own := key.removeprefix(PREFIX)) != LOG_TIE:
                if stored.dtype not in _FLOATS:
                    raise UserError(
                        f"{name}: {own} has dtype {stored.dtype}; expected one of {', '.join(_FLOATS.values())}."
                    )
                self.infos[own] = TensorInfo(stored.shape, stored.dtype)
                self._chunks[own] = stored.chunks

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
        """Check that entries which are not tensors, and `common.pt`, are plain data, and no weights: those are tensors.

        Raises:
            UserError: one is more than that, or cannot be read.
        """
        for name, place in self.records.objects.items():
            self._load(name, place)
        common = self._load("common.pt", Place("common.pt", 0, -1))
        if not isinstance(common, dict) or common.get("state_dict"):
            raise UserError(f"{self._name}: weights/common.pt: expected a dict whose state_dict has no entries.")

    def _read_chunk(self, name: str, chunk: Chunk) -> Tensor:
        tensor = self._load(name, chunk.place)
        info = self.infos[name]
        is_plain = type(tensor) is Tensor and tensor.layout is torch.strided and tensor.device.type == "cpu"
        is_whole = is_plain and tensor.untyped_storage().nbytes() >= tensor.nbytes
        if not is_whole or tensor.shape != chunk.sizes or tensor.dtype != info.dtype:
            raise UserError(f"{self._name}: {name}: expected {info}, in chunks of {chunk.sizes}; got another.")
        return cast(Tensor, tensor)

    def _load(self, name: str, place: Place) -> Any:
        """Load what torch.save wrote there, if it is tensors and plain data."""
        try:
            with self._open(place.file) as file:
                file.seek(place.offset)
                data = file.read(place.length)
            if place.length >= 0 and len(data) != place.length:
                raise EOFError(f"{place.length} bytes at {place.offset} of {place.file}, got {len(data)}")
            _check_zip(data)
            return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except _UNREADABLE as error:
            raise UserError(f"{self._name}: {name} cannot be read: {first_line(error)}") from error

    def _read_records(self) -> Records:
        try:
            with self._open(".metadata") as file:
                return read_records(file)
        except OSError as error:
            raise UserError(
                f"{self._name}: expected weights/.metadata, got {error!r}. Is it a NeMo 2 checkpoint?"
            ) from error
        except ValueError as error:
            raise UserError(
                f"{self._name}: weights/.metadata is not the record of a torch_dist checkpoint ({first_line(error)}). "
                "It was not loaded. Use a checkpoint from someone you trust."
            ) from error


def _check_zip(data: bytes) -> None:
    """Check that these bytes are a file of torch.save's, with no entry that grows when it is read.

    torch.load knows older formats too. One is a tar, which it unpacks.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        entries = packed.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("an entry of it is compressed")
    if sum(entry.file_size for entry in entries) > len(data):
        raise ValueError("its entries have more bytes than it has")

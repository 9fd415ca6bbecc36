"""What a conversion reads from: named tensors of which any part can be had without the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Region = tuple[slice, ...]
"""Part of a tensor: one slice with start and stop per dimension; missing trailing dimensions are whole."""


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        """Values in the tensor."""
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        """Size of the data."""
        return self.num_elements * self.dtype.itemsize


class TensorSource(Protocol):
    """Tensors by name."""

    infos: dict[str, TensorInfo]

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it, in its own dtype on the CPU."""
        ...


def whole(region: Region, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Give (start, stop) in every dimension of `shape`.

    `whole((slice(1, 3),), (4, 5))` is `[(1, 3), (0, 5)]`.
    """
    bounds = [part.indices(size)[:2] for part, size in zip(region, shape, strict=False)]
    return bounds + [(0, size) for size in shape[len(region) :]]


class AsDtype:
    """Another source's tensors, cast when they are read."""

    def __init__(self, source: TensorSource, dtype: torch.dtype) -> None:
        self.source = source
        self.dtype = dtype
        self.infos = {name: TensorInfo(info.shape, dtype) for name, info in source.infos.items()}

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        return self.source.read(name, region).to(self.dtype)

"""What tensors of the device hold: bytes in the memory of the host, one storage behind each of the device's.

Views of a tensor share its storage, and so its bytes: what one of them is given, all of them have.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

_UNWRITTEN = 255
"""Byte of memory that nothing was written to: not a number in any float, FP8 among them."""


class Memory:
    """Bytes of the device's storages."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._owned: set[int] = set()

    def of(self, tensor: Tensor) -> Tensor:
        """Give the values of a tensor of the device: one of the CPU with its shape and strides, over the same bytes.

        Raises:
            RuntimeError: it came to the device by no operation, so that it has none.
        """
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        if storage is None:
            raise RuntimeError(
                f"expected a tensor of the device that an operation has made, got one of {tuple(tensor.shape)} in "
                f"{tensor.dtype} without values: make it under the mode"
            )
        seen = torch.empty(0, dtype=tensor.dtype)
        return seen.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())

    def keep(self, tensor: Tensor, values: Tensor | None) -> None:
        """Let a new tensor of the device hold values, or what nothing was written to; one that is known stays as it is.

        The bytes of `values` are taken over where nothing else holds them and they lie as the device's tensor does.
        """
        storage = tensor.untyped_storage()
        if storage._cdata in self._storages:
            return
        if values is None or not self._lies_alike(values, tensor):
            own = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
            values = unwritten(own) if values is None else own.copy_(values)
        held = values.untyped_storage()
        self._storages[storage._cdata] = held
        self._owned.add(held._cdata)
        weakref.finalize(storage, self._freed, storage._cdata).atexit = False

    def _lies_alike(self, values: Tensor, tensor: Tensor) -> bool:
        found, asked = ((x.size(), x.stride(), x.storage_offset(), x.dtype) for x in (values, tensor))
        return found == asked and values.untyped_storage()._cdata not in self._owned

    def _freed(self, key: int) -> None:
        self._owned.discard(self._storages.pop(key)._cdata)


def unwritten(tensor: Tensor) -> Tensor:
    """Fill a tensor of the CPU with what memory holds that nothing was written to."""
    held: Any = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    held.fill_(1 if tensor.dtype == torch.bool else _UNWRITTEN)
    return tensor

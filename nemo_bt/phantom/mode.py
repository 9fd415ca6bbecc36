"""Every operation of torch: on the device it has shapes and is counted, on the CPU it runs.

Operations on the device run under `FakeTensorMode`, which knows shapes, dtypes and devices and refuses what the device
would refuse: operands on two devices, shapes that do not fit. What only the device knows and the host asks for is
answered by `_answer`.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import torch
import torch.distributed._tools.fake_collectives  # how messages look to tensors of shapes alone
from torch import Tensor
from torch._C._distributed_c10d import FakeWork
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nemo_bt.phantom.compiled import COMPILED
from nemo_bt.phantom.flops import count_flops
from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.messages import message

DEVICE = torch.device("cuda", 0)
_aten = torch.ops.aten
_SHAPE_BY_VALUE = {_aten.nonzero.default, _aten.masked_select.default, _aten.bincount.default, _aten._unique2.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default}
_MASKS = (torch.bool, torch.uint8)
_NO_KERNEL = {
    "device",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "_unsafe_view",
    "_reshape_alias",
    "lift_fresh",
}
_KEPT_VALUES = 65_536


def is_on_device(tensor: Any) -> bool:
    """Tell whether it is a tensor of the device."""
    return isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda"


def is_quantised(tensor: Any) -> bool:
    """Tell whether a tensor is one of Transformer Engine's, in FP8, which holds others."""
    return hasattr(tensor, "_quantizer")


class PhantomMode(TorchDispatchMode):
    """Traces what happens on the device.

    Args:
        ledger: where it is counted.
        fake: gives tensors of shapes alone.
    """

    supports_higher_order_operators = True  # FlexAttention is one

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.pinned: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(map(is_quantised, tensors)):
            return NotImplemented  # its own class takes it apart
        has_fakes = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        goes_there = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if not has_fakes and not goes_there:
            return self._on_cpu(func, args, kwargs)
        comes_from_there = any(map(is_on_device, tensors))
        if func is _aten._pin_memory.default:
            return self._pinned(args[0])
        if func is _aten.is_pinned.default:
            return self._is_pinned(args[0])
        if func is _aten._local_scalar_dense.default:
            self.ledger.waited("item")
            return _answer(args[0])
        if comes_from_there or goes_there:
            self._look_for_waits(func, args, kwargs, comes_from_there, goes_there)
        if func is _aten._to_copy.default and goes_there and not has_fakes:
            out = self._brought(args[0], kwargs)
        elif func is _aten.copy_.default and not isinstance(args[0], FakeTensor):
            out = args[0].fill_(_answer(args[1]))
        elif func.namespace == "c10d" and "coalesced" in func.__name__:  # torch has no shapes for these
            out = FakeWork().boxed()
        else:
            with self.fake:
                out = func(*args, **kwargs)
        if comes_from_there or goes_there:
            self._count(func, args, kwargs, out)
        return out

    def _brought(self, source: Tensor, kwargs: dict[str, Any]) -> Any:
        """Copy a tensor of the CPU to the device; small ones of integers keep their values."""
        dtype = kwargs.get("dtype") or source.dtype
        with self.fake:
            brought = torch.empty_strided(source.shape, source.stride(), dtype=dtype, device=DEVICE)
        if not source.dtype.is_floating_point and source.numel() <= _KEPT_VALUES:
            self.ledger.remember(brought, source.clone())
        return brought

    def _on_cpu(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run what has nothing to do with the device; memory that is to be pinned is noted."""
        if not kwargs.get("pin_memory"):
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "pin_memory": False})
        self._note_pinned(made)
        return made

    def _pinned(self, source: Tensor) -> Any:
        """Copy a tensor of shapes alone that lies on the CPU to pinned memory."""
        with self.fake:
            pinned = torch.empty_like(source)
        self._note_pinned(pinned)
        return pinned

    def _note_pinned(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.pinned.add(storage._cdata)
        weakref.finalize(storage, self.pinned.discard, storage._cdata).atexit = False

    def _is_pinned(self, tensor: Tensor) -> bool:
        is_noted = tensor.untyped_storage()._cdata in self.pinned
        return is_noted or (not isinstance(tensor, FakeTensor) and tensor.is_pinned())

    def _look_for_waits(self, func: Any, args: Any, kwargs: Any, comes_from_there: bool, goes_there: bool) -> None:
        """Count what makes the host wait, and what is copied between host and device."""
        ledger = self.ledger
        if func in _SHAPE_BY_VALUE:
            ledger.waited("shape_by_value")
        elif func in _INDEXING:
            for index in args[1]:
                if index is not None and not is_on_device(index):
                    ledger.waited("index_on_cpu")
                elif index is not None and index.dtype in _MASKS and not _fills(func, args):
                    ledger.waited("boolean_index")
        elif func is _aten._to_copy.default and kwargs.get("device") is not None and comes_from_there != goes_there:
            host = args[0] if goes_there else None  # torch pins what it makes for a copy that does not block
            self._count_copy(host, goes_there, bool(kwargs.get("non_blocking")))
        elif func is _aten.copy_.default and is_on_device(args[0]) != is_on_device(args[1]):
            non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            host = args[1] if is_on_device(args[0]) else args[0]
            self._count_copy(host, is_on_device(args[0]), bool(non_blocking))

    def _count_copy(self, host: Tensor | None, goes_there: bool, non_blocking: bool) -> None:
        """Count a copy, for which the host waits unless it is told not to and its own side is pinned."""
        self.ledger.copied("to_device" if goes_there else "to_cpu")
        if not non_blocking:
            self.ledger.waited("blocking_copy" if goes_there else "to_cpu")
        elif host is not None and not self._is_pinned(host):
            self.ledger.waited("unpinned_memory")

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        for leaf in tree_leaves(out):
            if is_on_device(leaf):
                self.ledger.allocated(leaf, func.__name__)
        if func.namespace == "c10d":
            self.ledger.sent(*message(func, args))
        elif not _is_view(func) and _plain_name(func) not in _NO_KERNEL:
            self.ledger.launched(_plain_name(func))
            count_flops(self.ledger, func, args, out)


def _answer(tensor: Tensor) -> bool | int | float:
    """Give what the host reads of a tensor of one element: true, 0 or 1.0."""
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.dtype.is_floating_point else 0


def _fills(func: Any, args: Any) -> bool:
    """Tell whether torch writes one number of the CPU where a mask says so, which needs no shape.

    Source: ATen/native/TensorAdvancedIndexing.cpp, canDispatchToMaskedFill.
    """
    if func is _aten.index.Tensor or len([index for index in args[1] if index is not None]) > 1:
        return False
    return args[2].numel() == 1 and not is_on_device(args[2]) and not any(args[3:4])


@functools.cache
def _plain_name(func: Any) -> str:
    name: str = func.__name__.split(".")[0]
    return f"{COMPILED} {name}" if isinstance(func, HigherOrderOperator) else name


@functools.cache
def _is_view(func: Any) -> bool:
    """Tell whether what an operation gives is only another look at its input."""
    if isinstance(func, HigherOrderOperator):
        return False
    aliases = [one.alias_info for one in func._schema.returns if one.alias_info is not None]
    return bool(aliases) and not any(alias.is_write for alias in aliases)

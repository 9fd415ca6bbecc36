"""Every operation of torch: shapes as in the trace, and the values that torch's kernels for CPUs compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import Work
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.mode import PhantomMode, is_on_device
from nemo_bt.phantom.numbers.memory import Memory, unwritten
from nemo_bt.phantom.numbers.replaced import REPLACED

_EMPTY = ("empty", "new_empty")
_CPU = torch.device("cpu")


class NumbersMode(PhantomMode):
    """Traces what happens on the device, and computes it.

    Args:
        ledger: where it is counted.
        memory: where its values are.
    """

    def __init__(self, ledger: Ledger, memory: Memory) -> None:
        super().__init__(ledger)
        self.memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if (
            out is NotImplemented
            or func.namespace == "prim"
            or not any(map(is_on_device, tree_leaves((args, kwargs, out))))
        ):
            return out  # that namespace asks where a tensor is
        found = self._computed(func, args, kwargs)
        if func.namespace == "c10d":  # it writes where it is asked to
            for work in tree_leaves(found):
                if isinstance(work, torch.ScriptObject):
                    Work.unbox(work).wait()
            return out
        leaves, structure = tree_flatten(out)
        values, _ = tree_flatten(found, is_leaf=lambda leaf: leaf is None)
        return tree_unflatten([self._kept(*pair) for pair in zip(leaves, values, strict=True)], structure)

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on values; what it makes without writing to it is marked as such."""
        args, kwargs = tree_map(self._value, (args, {name: kwargs[name] for name in kwargs if name != "pin_memory"}))
        found = REPLACED.get(func, func)(*args, **kwargs)
        if func.namespace == "aten" and func.__name__.startswith(_EMPTY):
            unwritten(found)
        return found

    def _value(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.device) and leaf.type == "cuda":
            return _CPU
        return self.memory.of(leaf) if is_on_device(leaf) else leaf

    def _kept(self, leaf: Any, value: Any) -> Any:
        """Give the device's tensor, which holds the value, or the value itself where the host asked for it."""
        if not is_on_device(leaf):
            return value
        assert value is None or isinstance(value, Tensor)
        self.memory.keep(leaf, value)
        return leaf

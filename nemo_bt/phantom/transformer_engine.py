"""Transformer Engine's own Python, over shape functions in the place of its C++ extension.

A function of the extension that is not here raises NotImplementedError with its name.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from nemo_bt.gpu_setup import TRANSFORMER_ENGINE
from nemo_bt.phantom import absent, te_attention, te_gemm, te_norm, te_optimizer, te_quantize
from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.te_types import types

EXTENSION = "transformer_engine_torch"
_NO_KERNEL = ("get_", "device_supports", "ubuf_")
Compute = Callable[[str, Any, Any, Any], None]
"""Writes values: name of a kernel, what its shape function has given, and its arguments by place and by name."""


def only_shapes(name: str, made: Any, args: Any, kwargs: Any) -> None:
    """Write nothing: there are no values."""


def install(folder: Path, ledger: Ledger, compute: Compute = only_shapes) -> None:
    """Import Transformer Engine's package of `folder`, and leave it where Megatron's import finds it.

    Args:
        compute: writes the values of a kernel into what its shape function has given.
    """

    def kernel(name: str, shapes: Callable[..., Any]) -> Callable[..., Any]:
        return _counted(name, shapes, ledger, compute)

    sys.modules[EXTENSION] = _extension(ledger, kernel)
    stood_in = [*absent.stand_in_for_triton(kernel), *absent.stand_in_for_onnxscript()]
    sys.path.append(str(folder))  # its version is read from its metadata
    os.environ["NVTE_PROJECT_BUILDING"] = "1"  # its import looks for no library then
    package = _package(folder / "transformer_engine")
    package.common = importlib.import_module("transformer_engine.common")
    package.common.load_framework_extension = lambda _: None
    package.pytorch = importlib.import_module("transformer_engine.pytorch")
    _take_shapes_for_tensors()
    _take_parts_of_quantised()
    for name in stood_in:  # others ask whether Triton is there
        del sys.modules[name]


def _package(folder: Path) -> Any:
    """Make the package without running its __init__, which asks for the version of an installed one."""
    package = ModuleType("transformer_engine")
    package.__path__ = [str(folder)]
    package.__file__ = str(folder / "__init__.py")
    package.__spec__ = ModuleSpec("transformer_engine", None, origin=package.__file__, is_package=True)
    package.__spec__.submodule_search_locations = [str(folder)]
    package.__version__ = TRANSFORMER_ENGINE  # type: ignore[attr-defined]
    sys.modules["transformer_engine"] = package
    return package


def _extension(ledger: Ledger, kernel: Callable[[str, Callable[..., Any]], Any]) -> ModuleType:
    module = ModuleType(EXTENSION)
    module.__spec__ = ModuleSpec(EXTENSION, None)
    module.__file__ = "phantom"
    module.__dict__.update(types())
    for part in (te_gemm, te_norm, te_quantize, te_attention, te_optimizer):
        for name, function in part.functions(ledger).items():
            module.__dict__[name] = function if name.startswith(_NO_KERNEL) else kernel(name, function)
    module.__getattr__ = _missing  # type: ignore[method-assign]
    return module


def _counted(name: str, shapes: Callable[..., Any], ledger: Ledger, compute: Compute) -> Callable[..., Any]:
    """Give a kernel: it is counted, its shape function gives what is written, and `compute` writes it."""

    @functools.wraps(shapes)
    def counted(*args: Any, **kwargs: Any) -> Any:
        ledger.launched(name)
        made = shapes(*args, **kwargs)
        compute(name, made, args, kwargs)
        return made

    return counted


def _missing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{EXTENSION}.{name}: the trace has no shapes for it")

    return missing


def _take_shapes_for_tensors() -> None:
    """Have attention take a tensor of shapes alone for a torch.Tensor: it chooses by the very type."""
    import torch
    import transformer_engine.pytorch.attention.dot_product_attention.utils as attention

    choose = attention.get_attention_backend

    def chosen(params: Any) -> Any:
        params.qkv_type = torch.Tensor
        return choose(params)

    attention.get_attention_backend = chosen


def _take_parts_of_quantised() -> None:
    """Have a tensor of shapes alone take what one in FP8 asks of its bytes, in the name of its own type."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.utils._pytree import tree_leaves
    from transformer_engine.pytorch.tensor import QuantizedTensor

    dispatch = FakeTensor.__torch_dispatch__

    def dispatched(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_asked = any(issubclass(one, QuantizedTensor) for one in types)
        if is_asked and not any(isinstance(tensor, QuantizedTensor) for tensor in tensors):
            return func(*args, **(kwargs or {}))
        return dispatch(func, types, args, kwargs)

    FakeTensor.__torch_dispatch__ = classmethod(dispatched)  # type: ignore[assignment, method-assign]

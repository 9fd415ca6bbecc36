"""Packages that Transformer Engine's Python imports and a CPU has not: Triton, with its kernels, and onnxscript."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TRITON = ("language", "language.core", "language.standard", "runtime")


class _Unused:
    """A name that is only read, called and decorated with while a module is imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __or__(self, other: Any) -> Any:
        return self


class _Kernel:
    """A kernel of Triton, which has no shapes to give."""

    def __init__(self, launch: Callable[..., Any], fn: Any) -> None:
        self.launch, self.fn = launch, fn
        self.__name__ = fn.__name__

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return self.launch


def stand_in_for_triton(kernel: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> list[str]:
    """Put modules under Triton's names, and give the names.

    Args:
        kernel: gives what is called where one is launched, from its name and from what gives its output.
    """

    def nothing(*_: Any, **__: Any) -> None: ...

    def jit(fn: Any) -> _Kernel:
        return _Kernel(kernel(fn.__name__, nothing), fn)

    def autotune(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return lambda kernel: kernel

    def next_power_of_2(number: int) -> int:
        return 1 << max(number - 1, 0).bit_length()

    def cdiv(number: int, by: int) -> int:
        return -(-number // by)

    functions = {one.__name__: one for one in (jit, autotune, next_power_of_2, cdiv)}
    _module("triton", functions)
    for name in _TRITON:
        _module(f"triton.{name}", {})
    return ["triton", *(f"triton.{name}" for name in _TRITON)]


def stand_in_for_onnxscript() -> list[str]:
    """Put a module under onnxscript's name, and give it."""
    _module("onnxscript", {})
    return ["onnxscript"]


def _module(name: str, functions: dict[str, Any]) -> None:
    module = ModuleType(name)
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__dict__.update(functions)
    unused = _Unused()
    module.__getattr__ = lambda asked: getattr(unused, asked)  # type: ignore[method-assign]
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)

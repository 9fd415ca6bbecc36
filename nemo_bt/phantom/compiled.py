"""What stands for torch.compile: the function runs as it is, and counts as one kernel.

A GPU's compiler fuses it, so what it makes on the way is never in memory: only what is left when it returns is counted,
which is its output and what autograd keeps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.training import compiler

_torch: Any = torch
COMPILED = "compiled"
"""Begins the names of kernels that the first step builds."""


def install(ledger: Ledger) -> None:
    """Put it in the place of torch.compile, before what decorates with it is imported."""

    def compile_(model: Callable[..., Any] | None = None, **_: Any) -> Any:
        return as_one_kernel if model is None else as_one_kernel(model)

    def as_one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with ledger.one_kernel(f"{COMPILED} {function.__name__}"):
                return function(*args, **kwargs)

        return run

    _torch.compile = compile_
    compiler.missing = list  # what this machine lacks to compile is nothing to the GPU's

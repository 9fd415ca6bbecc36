"""Where in the source something happens: the frames of what is traced, without those of torch and of the trace."""

from __future__ import annotations

import functools
import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

_TRACED = ("nemo_bt", "megatron", "nemo", "transformer_engine", "lightning")
_OWN = "nemo_bt/phantom/"
_DEPTH = 3


def places(depth: int = _DEPTH) -> tuple[str, ...]:
    """Name the innermost frames of what is traced, innermost first."""
    found: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(found) < depth:
        file = _short(frame.f_code.co_filename)
        if file:
            found.append(_place(file, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(found or _autograd_node())


def _autograd_node() -> list[str]:
    """Name the step of a backward pass that goes on in a thread of its own, where no frame leads further."""
    node = torch._C._current_autograd_node()
    return [f"autograd {node.name()}"] if node is not None else []


def places_of(error: BaseException) -> tuple[str, ...]:
    """Name the innermost frames of what is traced in which an error was raised, innermost first."""
    frames = [(_short(one.filename), one) for one in traceback.extract_tb(error.__traceback__)]
    found = [_place(file, one.lineno or 0, one.name) for file, one in frames if file]
    return tuple(found[::-1][:_DEPTH])


def _place(file: str, line: int, function: str) -> str:
    return f"{file}:{line} {function}"


@functools.cache
def _short(filename: str) -> str | None:
    """Give a file's name as Python imports it; None for a file that is not traced."""
    parts = Path(filename).parts
    start = next((number for number, part in enumerate(parts) if part == "site-packages"), None)
    if start is None:
        start = next((number for number, part in enumerate(parts) if part == "nemo_bt"), len(parts)) - 1
        while len(parts) > start + 2 and parts[start + 1] == parts[start + 2] == "nemo_bt":
            start += 1
    inside = parts[start + 1 :]
    short = "/".join(inside)
    return short if inside and inside[0] in _TRACED and not short.startswith(_OWN) else None

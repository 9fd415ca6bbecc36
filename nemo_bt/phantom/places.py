"""Where in the source something happens: the frames of what is traced, without those of torch and of the trace."""

from __future__ import annotations

import functools
import sys
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

import torch

_TRACED = ("nemo_bt", "megatron", "nemo", "transformer_engine", "lightning")
"""Packages whose frames are named, beside the user's own files."""
_OWN = Path(__file__).parent
_INSTALLED = ("site-packages", "dist-packages", "lib-dynload")
_PYTHON = Path(sysconfig.get_path("stdlib"))
_DEPTH = 3
_DEPTH_OF_FAILURE = 12


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
    return tuple(found[::-1][:_DEPTH_OF_FAILURE])


def _place(file: str, line: int, function: str) -> str:
    return f"{file}:{line} {function}"


@functools.cache
def _short(filename: str) -> str | None:
    """Give a file's name as Python imports it, or its path; None for one of torch, of Python or of the trace."""
    path = Path(filename)
    if filename.startswith("<") or _OWN in path.parents:
        return None
    root = max((Path(one) for one in sys.path if one and path.is_relative_to(one)), key=_length, default=None)
    if root is None:
        return filename
    inside = path.relative_to(root)
    is_users = root != _PYTHON and root.name not in _INSTALLED
    return str(inside) if is_users or inside.parts[0] in _TRACED else None


def _length(path: Path) -> int:
    return len(path.parts)

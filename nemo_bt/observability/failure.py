"""How a rank that fails says so: its own mistake in full, what another rank's end did to it in one line.

It imports nothing heavy.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from nemo_bt.observability.terminal import Terminal

_WAITING = ("torch.distributed.", "megatron.core.pipeline_parallel.", "megatron.core.distributed.")
"""Modules of libraries in which a rank waits for others. Our own modules set WAITS_FOR_OTHERS = True."""
_LAST_FRAMES = 4
_LOST = re.compile(r"peer|connection|timed? ?out|NCCL|Broken pipe", re.IGNORECASE)
_IN_TRANSPORT = re.compile(r"\bgloo/transport/")
"""A message between ranks failed, wherever autograd waited for it."""


def report_failure(
    rank: int, log_dir: Path, terminal: Terminal
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """Make a `sys.excepthook` for a rank whose own output goes to nemo.log."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        terminal.stop()
        sys.__excepthook__(kind, error, trace)  # into nemo.log
        message = (str(error).splitlines() or [""])[0]
        waited = _IN_TRANSPORT.search(message) or waits_in(frame.f_globals for frame, _ in traceback.walk_tb(trace))
        if waited and _LOST.search(message):
            terminal.error(f"rank {rank} lost the others: {message}")
        else:
            lines = "".join(traceback.format_exception(kind, error, trace))
            terminal.error(f"{lines}rank {rank} failed; its output is in {log_dir / 'nemo.log'}")

    return show


def waits_in(modules: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether a stack ends where ranks wait for each other: then others are to blame.

    `modules` are the globals of the stack's frames, outermost first. The last frames may be those of a library that a
    waiting module calls.
    """
    last = [*modules][-_LAST_FRAMES:]
    return any(f"{of.get('__name__')}.".startswith(_WAITING) or of.get("WAITS_FOR_OTHERS") for of in last)


def stack_of(frame: FrameType) -> list[dict[str, Any]]:
    """Give the globals of a thread's frames, outermost first."""
    return [of.f_globals for of, _ in traceback.walk_stack(frame)][::-1]

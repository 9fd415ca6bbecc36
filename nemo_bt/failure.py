"""How a rank that fails says so: its own mistake in full, what another rank's end did to it in one line.

Imports nothing heavy.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

from nemo_bt.events import append_event
from nemo_bt.terminal import Terminal

_OF_OTHERS = (
    "/torch/distributed/",
    "/megatron/core/pipeline_parallel/",
    "/megatron/core/distributed/",
    "/nemo_bt/run_end.py",  # reads what an all-reduce left on a GPU
    "/nemo_bt/nonfinite.py",
)
"""Where a rank waits for others; the last frames of its stack may be those of a library that such a file calls."""
_LAST_FRAMES = 4
_LOST = re.compile(r"peer|connection|timed? ?out|NCCL|Broken pipe", re.IGNORECASE)


def report_failure(
    rank: int, log_dir: Path, terminal: Terminal
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """A `sys.excepthook` for a rank whose own output goes to nemo.log.

    Args:
        rank: of this process in the whole job.
        log_dir: of the run.
        terminal: of this rank.
    """

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        terminal.stop()
        sys.__excepthook__(kind, error, trace)  # into nemo.log
        waited = waits_in(frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))
        message = (str(error).splitlines() or [""])[0]
        if waited and _LOST.search(message):
            terminal.error(f"rank {rank} lost the others: {message}")
        else:
            lines = "".join(traceback.format_exception(kind, error, trace))
            terminal.error(f"{lines}rank {rank} failed; its output is in {log_dir / 'nemo.log'}")
        with suppress(OSError):
            append_event(log_dir, "failed", rank=rank, error=f"{kind.__name__}: {message}")

    return show


def waits_in(files: Iterable[str]) -> bool:
    """Whether a stack ends where ranks wait for each other: then others are to blame.

    Args:
        files: of its frames, outermost first.
    """
    return any(place in file for file in [*files][-_LAST_FRAMES:] for place in _OF_OTHERS)


def stack_of(frame: FrameType) -> list[str]:
    """Files of a thread's frames, outermost first."""
    files = []
    current: FrameType | None = frame
    while current:
        files.append(current.f_code.co_filename)
        current = current.f_back
    return files[::-1]

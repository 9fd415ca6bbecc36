"""Runs of `nemo-bt train` in forks of a process that has imported NeMo; that saves its import, 5 s a process."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fault_world import READY, follow, prefix, variables
from tests.support.forked_command import Forked


def enter(module: str) -> None:
    """Start this program again with one thread, mounts of its own and a clock that can jump, where they are to be had.

    It returns in the program that was started, with NeMo imported.
    """
    if READY not in os.environ:
        command = [*prefix(), sys.executable, "-m", module, *sys.argv[1:]]
        os.execvpe(command[0], command, os.environ | variables())
    from nemo_bt.training.nemo_import import import_nemo

    import_nemo(on_gpu=False)
    import torch.distributed.elastic.multiprocessing  # noqa: F401


def forked_run(
    argv: Sequence[str],
    env: Mapping[str, str],
    output: Path,
    clock: Path | None = None,
    callbacks: Sequence[Any] = (),
) -> Forked:
    """Start `python -m nemo_bt argv`.

    Args:
        env: the whole environment.
        output: file that stdout and stderr are appended to.
        clock: file with the seconds by which its clock is ahead.
        callbacks: what its training calls beside its own callbacks.
    """

    def prepare() -> None:
        if clock:
            follow(clock)
        if callbacks:
            _add(callbacks)

    return Forked(["nemo_bt", *argv], env, output, prepare=prepare)


def _add(callbacks: Sequence[Any]) -> None:
    import nemo_bt.training.train as training

    training.train = functools.partial(training.train, callbacks=tuple(callbacks))


def described(error: BaseException) -> str:
    """Give an error of the campaign itself, for its record."""
    return "".join(traceback.format_exception(error))

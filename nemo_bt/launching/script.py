"""Ranks of a program that is not the command line: each runs the same script once more, up to the call that asked.

A rank that reaches the call does its work there and ends. The process that asked gets what rank 0 left, and goes on.
In a rank, earlier calls of the script end as they did in that process, and do no work again.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from nemo_bt.errors import UserError
from nemo_bt.launching.local import current_rank, start_ranks, started_here
from nemo_bt.launching.signals import STOPPED_STATUS

_FOLDER = "NEMO_BT_SCRIPT_FOLDER"
"""Variable that names a folder: `earlier` has the results of earlier calls there, `result` gets this one's."""
_GOES_ON = object()
"""Stands for the result of a call that has not ended. A call within it, from a callback, is a part of it."""
_results: list[Any] = []
"""Results of this process's calls, in their order; an exception stands for a call that raised one."""
P = ParamSpec("P")
R = TypeVar("R")


def made_once(call: Callable[P, R]) -> Callable[P, R]:
    """Have a script make a call once: a rank that runs the script again gets the result of an earlier call."""

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if _results and _results[-1] is _GOES_ON:
            return call(*args, **kwargs)
        earlier = pickle.loads((_folder() / "earlier").read_bytes()) if is_rank_of_a_script() else []
        if len(_results) < len(earlier):
            _results.append(earlier[len(_results)])
            if isinstance(_results[-1], BaseException):
                raise _results[-1]
        else:
            _results.append(_GOES_ON)
            try:
                _results[-1] = call(*args, **kwargs)
            except BaseException as error:
                _results[-1] = _kept(error)
                raise
        result: R = _results[-1]
        return result

    return wrapper


def _kept(error: BaseException) -> BaseException:
    """Copy an exception, without the frames and tensors that it holds; what pickle cannot copy becomes its text."""
    try:
        copy: BaseException = pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, AttributeError, TypeError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    return copy


def is_rank_of_a_script() -> bool:
    """Tell whether this process is a rank that ends with its call."""
    return started_here() and _FOLDER in os.environ


def leave_result(result: Any) -> None:
    """Leave a job's result for the process that started its ranks, where that waits for it."""
    if is_rank_of_a_script() and current_rank() == 0:
        (_folder() / "result").write_bytes(pickle.dumps(result))


def start_and_wait(command: Sequence[str], num_ranks: int, log_dir: Path) -> Any:
    """Start local ranks, each with `command` as the arguments of Python, and give what rank 0 left.

    Raises:
        UserError: the ranks found a user's mistake.
        RuntimeError: a rank failed; it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="nemo_bt-script-") as name:
        (Path(name) / "earlier").write_bytes(pickle.dumps(_results[:-1]))
        ended = start_ranks(command, num_ranks, {_FOLDER: name})
        if ended.status == 2:
            raise UserError(str(ended.message).removeprefix("error: "))
        result = Path(name) / "result"
        if ended.status not in (0, STOPPED_STATUS) or not result.exists():
            why = ended.message or f"a rank ended with status {ended.status}"
            raise RuntimeError(f"{why}; the output of all ranks is in {log_dir / 'nemo.log'}")
        return pickle.loads(result.read_bytes())


def _folder() -> Path:
    return Path(os.environ[_FOLDER])


def own_command() -> list[str]:
    """Give the arguments with which Python runs this script.

    Raises:
        UserError: there is no script to run again, or a process that the script started is importing it.
    """
    if parent_process() is not None:
        raise UserError(
            "nemo_bt was called while a helper process imported this script. Put the call behind "
            'if __name__ == "__main__":.'
        )
    main = sys.modules["__main__"]
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules or not hasattr(main, "__file__"):
        raise UserError(
            "trainer.devices > 1: a notebook or an interactive session is one rank. Set trainer.devices=1, call "
            "nemo_bt.launch(settings), or run a script."
        )
    return list(sys.orig_argv[1:])

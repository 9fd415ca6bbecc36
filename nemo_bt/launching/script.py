"""Ranks of a program that is not the command line: each runs the same script once more, up to the call that asked.

A rank that reaches the call does its work there and ends. The process that asked gets what rank 0 left, and goes on.
In a rank, earlier calls of the script give the results that they had in that process, and do no work again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from nemo_bt.errors import UserError
from nemo_bt.launching.local import current_rank, start_ranks, started_here
from nemo_bt.launching.signals import STOPPED_STATUS

_FOLDER = "NEMO_BT_SCRIPT_FOLDER"
"""Variable that names a folder: earlier.json has the results of earlier calls there, result.json gets this one's."""
_results: list[Any] = []
"""Results of this process's calls, in their order."""


def earlier_result() -> tuple[bool, Any]:
    """Tell whether this call was made before the ranks were started, and give its result."""
    if not (started_here() and _FOLDER in os.environ):
        return False, None
    earlier = json.loads((Path(os.environ[_FOLDER]) / "earlier.json").read_text())
    if len(_results) >= len(earlier):
        return False, None
    _results.append(earlier[len(_results)])
    return True, _results[-1]


def remember(result: Any) -> None:
    """Keep a call's result, which JSON can hold, for ranks that later calls start."""
    _results.append(result)


def leave_result(result: Any) -> None:
    """Leave a job's result for the process that started its ranks, where that waits for it."""
    if started_here() and _FOLDER in os.environ and current_rank() == 0:
        (Path(os.environ[_FOLDER]) / "result.json").write_text(json.dumps(result))


def is_rank_of_a_script() -> bool:
    """Tell whether this process is a rank that ends with its call."""
    return started_here() and _FOLDER in os.environ


def start_and_wait(command: Sequence[str], num_ranks: int, log_dir: Path) -> Any:
    """Start local ranks, each with `command` as the arguments of Python, and give what rank 0 left.

    Raises:
        UserError: the ranks found a user's mistake.
        RuntimeError: a rank failed; it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="nemo_bt-script-") as name:
        folder = Path(name)
        (folder / "earlier.json").write_text(json.dumps(_results))
        ended = start_ranks(command, num_ranks, {_FOLDER: name})
        if ended.status == 2:
            raise UserError(str(ended.message).removeprefix("error: "))
        result = folder / "result.json"
        if ended.status not in (0, STOPPED_STATUS) or not result.exists():
            why = ended.message or f"a rank ended with status {ended.status}"
            raise RuntimeError(f"{why}; the output of all ranks is in {log_dir / 'nemo.log'}")
        return json.loads(result.read_text())


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

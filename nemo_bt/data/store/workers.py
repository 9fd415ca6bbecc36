"""Processes that encode chunks, each behind a pipe of its own.

They are ours because Debian 12 has Python 3.11.2: concurrent.futures' pool waits forever there, and in all before
3.11.5, when a worker is killed while work is on its way to it. A kill for want of memory is what users meet.
"""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from nemo_bt.launching.local import end_with


class WorkerEnded(Exception):  # noqa: N818 - what happened, not a mistake of anyone
    """A process went away while it worked."""


class Workers:
    """Runs one function in several processes; the calls that wait are in this one.

    They are forked, so that nothing is imported again, and use one thread each and no torch. They end with the block.

    Args:
        function: called with the arguments of `submit`.
    """

    def __init__(self, function: Callable[..., Any], num_workers: int) -> None:
        context = get_context("fork")
        self._free: SimpleQueue[Connection[Any, Any]] = SimpleQueue()
        self._processes = []
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, function, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._free.put(ours)
        self._threads = ThreadPoolExecutor(num_workers)  # one waits for each process

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._threads.shutdown(cancel_futures=True)

    def submit(self, *arguments: Any) -> Future[Any]:
        """Call the function in the next free process.

        The future raises what the function raised, or WorkerEnded.
        """
        return self._threads.submit(self._ask, arguments)

    def _ask(self, arguments: tuple[Any, ...]) -> Any:
        pipe = self._free.get()
        try:
            pipe.send(arguments)
            result, error, trace = pipe.recv()
        except (EOFError, OSError) as gone:
            raise WorkerEnded from gone
        finally:
            self._free.put(pipe)
        if error is not None:
            raise error from RuntimeError(trace)
        return result


def _work(pipe: Connection[Any, Any], function: Callable[..., Any], parent_pid: int) -> None:
    end_with(parent_pid)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.freeze()  # what was imported before the fork is neither searched for garbage nor copied by the search
    while True:
        arguments = pipe.recv()
        try:
            pipe.send((function(*arguments), None, ""))
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is waited for
            pipe.send((None, error, traceback.format_exc()))

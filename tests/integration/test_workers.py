"""Processes that encode: results and mistakes come back, and none stays behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from nemo_bt.data.store.workers import WorkerEnded, Workers


def call(name: str, value: int) -> tuple[int, int]:
    if name == "raise":
        raise KeyError(value)
    if name == "end":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "sleep":
        time.sleep(1000)
    return value, os.getpid()


def test_results_come_back_from_several_processes() -> None:
    with Workers(call, 2) as workers:
        found = [future.result() for future in [workers.submit("give", i) for i in range(50)]]
    assert [value for value, _ in found] == list(range(50))
    assert len({pid for _, pid in found} - {os.getpid()}) == 2


def test_what_the_function_raises_is_raised_with_its_trace() -> None:
    with Workers(call, 1) as workers:
        with pytest.raises(KeyError, match="7") as caught:
            workers.submit("raise", 7).result()
        assert "in call" in str(caught.value.__cause__)
        assert workers.submit("give", 1).result()[0] == 1


def test_a_process_that_is_ended_is_told_even_with_much_work_waiting() -> None:
    with Workers(call, 2) as workers:
        waiting = [workers.submit("end", i) for i in range(2)]
        waiting += [workers.submit("give" * 100_000, i) for i in range(20)]
        for future in waiting:
            with pytest.raises(WorkerEnded):
                future.result(timeout=20)


def test_no_process_outlives_the_block() -> None:
    with Workers(call, 2) as workers:
        pids = {workers.submit("give", i).result()[1] for i in range(20)}
        workers.submit("sleep", 0)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)

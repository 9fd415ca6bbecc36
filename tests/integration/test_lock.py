"""One run at a time in a log directory."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from nemo_bt.checkpoint.lock import only_run
from nemo_bt.errors import UserError


def hold(log_dir: Path, held: "multiprocessing.synchronize.Event") -> None:
    with only_run(log_dir):
        held.set()
        signal.pause()


def test_a_second_run_is_refused_until_the_first_has_ended_however_it_did(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=hold, args=(tmp_path, held))
    other.start()
    assert held.wait(20)
    try:
        with (
            pytest.raises(UserError, match=rf"another run writes there \(host \S+, process {other.pid}\)"),
            only_run(tmp_path, wait_s=0.3),
        ):
            pass
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    with only_run(tmp_path, wait_s=5):
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()


def test_what_a_killed_run_did_not_finish_goes(tmp_path: Path) -> None:
    for name in (".reward-step4.nemo.unfinished", "reward-step2.nemo", "reward-step3.nemo.damaged"):
        (tmp_path / "checkpoints" / name / "weights").mkdir(parents=True)
    with only_run(tmp_path):
        left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["reward-step2.nemo", "reward-step3.nemo.damaged"]

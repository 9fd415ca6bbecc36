"""Requests to end a run, in a process of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_bt.launching.signals import STOPPED_FILE, STOPPED_STATUS, StopRequest, reason_of

SCRIPT = """
import os, signal, sys
from nemo_bt.launching.signals import StopRequest
request = StopRequest(None, ends_on_sigterm=sys.argv[1] == "started here")
request.listen()
if sys.argv[2] == "training":
    request.listen(is_training=True)
for name in sys.argv[3:]:
    os.kill(os.getpid(), getattr(signal, name))
print(request.code())
"""


def after(whose: str, when: str, *signals: str, folder: Path) -> tuple[int, str, bool]:
    """Exit status, output, and whether somebody was told to start the run again."""
    env = os.environ | {STOPPED_FILE: str(folder / "stopped")}
    command = [sys.executable, "-c", SCRIPT, whose, when, *signals]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    return result.returncode, result.stdout.strip(), (folder / "stopped").exists()


@pytest.mark.parametrize(
    ("whose", "when", "signals", "status", "printed"),
    [
        ("srun's", "training", ["SIGTERM"], 0, "15"),
        ("srun's", "training", ["SIGUSR1", "SIGUSR1"], 0, "10"),
        ("srun's", "training", ["SIGINT"], 0, "2"),
        ("started here", "training", ["SIGUSR1"], 0, "10"),
        ("started here", "training", ["SIGTERM"], -signal.SIGTERM, ""),
        ("srun's", "before", ["SIGTERM"], -signal.SIGTERM, ""),
        ("srun's", "before", ["SIGUSR1"], STOPPED_STATUS, ""),
        ("srun's", "before", ["SIGINT"], STOPPED_STATUS, ""),
    ],
)
def test_what_a_signal_does(
    whose: str, when: str, signals: list[str], status: int, printed: str, tmp_path: Path
) -> None:
    assert after(whose, when, *signals, folder=tmp_path) == (status, printed, False)


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    status, printed, _ = after("srun's", "training", "SIGINT", "SIGINT", folder=tmp_path)
    assert (status, printed) == (-signal.SIGINT, "")


def test_the_limit_counts_from_the_start_of_the_process() -> None:
    assert StopRequest(1e9, ends_on_sigterm=False).code() == 0
    assert reason_of(StopRequest(0.0, ends_on_sigterm=False).code()) == "exp_manager.max_time_per_run"
    assert reason_of(signal.SIGUSR1) == "SIGUSR1"


ASKED_WHILE_RANKS_START = """
import os, signal
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from nemo_bt.launching.local import start_ranks
popen = SubprocessHandler._popen
def asked_first(handler, *args):
    os.kill(os.getpid(), signal.SIGTERM)
    return popen(handler, *args)
SubprocessHandler._popen = asked_first
print(*start_ranks(["-c", "import time; time.sleep(60)"], 1))
"""


def test_a_request_that_comes_while_ranks_are_started_reaches_them() -> None:
    command = [sys.executable, "-c", ASKED_WHILE_RANKS_START]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == f"{STOPPED_STATUS} stopped before training\n", result.stderr
    assert result.stderr.startswith("SIGTERM: saving after this step, then the run ends")
    assert "Traceback" not in result.stderr

"""Ending a run early, between two steps and with everything saved: asked by a signal, or by a limit on its time.

SIGUSR1, SIGTERM and SIGINT ask; a second SIGINT ends at once. Ranks that `nemo-bt train` started itself are asked with
SIGUSR1 and ended with SIGTERM. It imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOPPED_STATUS = 75
"""Exit status of a command that ended early and can be continued: EX_TEMPFAIL of sysexits.h."""
STOPPED_FILE = "NEMO_BT_STOPPED_FILE"
"""Variable that names a file which exists after a run that ended early and had got further. Ranks under srun or
torchrun end with 0: any other status would have the rest of the job killed."""
STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_TIME_LIMIT = 1000
_START_S = time.monotonic()


class StopRequest:
    """What asks this process to end its run: a signal, or a limit on its time.

    Args:
        limit_s: seconds after which the run is to end; None is no limit.
        ends_on_sigterm: whether SIGTERM ends the process at once, and is no request.
        start_s: when the seconds begin, by time.monotonic(); that is the start of the process.
    """

    def __init__(self, limit_s: float | None, ends_on_sigterm: bool, start_s: float = _START_S) -> None:
        self.limit_s = limit_s
        self.start_s = start_s
        self.ends_on_sigterm = ends_on_sigterm
        self._signal = 0
        self._is_training = False
        self._answer_to: int | None = None

    def listen(self, is_training: bool = False, answer_to: int | None = None) -> None:
        """Take over the signals. Before training there is nothing to finish or save: a request ends the process.

        SIGTERM ends it too, but is no request then: srun sends it to the ranks that are left when one fails.

        Args:
            is_training: whether there is something to finish and save.
            answer_to: file descriptor that a request is answered on at once; None where another process answers.

        Raises:
            SystemExit: at a request before training, with `STOPPED_STATUS`.
        """
        self._is_training = is_training
        self._answer_to = answer_to
        asks = is_training and not self.ends_on_sigterm
        signal.signal(signal.SIGTERM, self._note if asks else signal.SIG_DFL)  # Lightning's would not save
        for number in (signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._note)

    def code(self) -> int:
        """Give 0, or the number of what asks; all ranks go by the largest."""
        if self._signal:
            return self._signal
        return _TIME_LIMIT if self.limit_s is not None and time.monotonic() - self.start_s >= self.limit_s else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == number:
            raise KeyboardInterrupt
        self._signal = number
        if not self._is_training:
            raise SystemExit(STOPPED_STATUS)
        if self._answer_to is not None:
            answer = answer_of(number, ends_at_second=number == signal.SIGINT)
            os.write(self._answer_to, f"{answer}\n".encode())  # a file object may be in the middle of a line


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Put the handlers of the signals back that were there before."""
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def running_s() -> float:
    """Give the seconds since this process imported this file."""
    return time.monotonic() - _START_S


def answer_of(number: int, ends_at_second: bool, saves: bool = True) -> str:
    """Say what becomes of a request; a second one may end the run at once.

    Args:
        number: the signal.
        ends_at_second: whether a second one ends the run at once.
        saves: whether the command has something to save.
    """
    name = signal.Signals(number).name
    again = f"; a second {name} ends it at once" if ends_at_second else ""
    return f"{name}: saving after this step, then the run ends{again}" if saves else f"{name}: the command ends"


def reason_of(code: int) -> str:
    """Name what asked, for a message."""
    return "exp_manager.max_time_per_run" if code == _TIME_LIMIT else signal.Signals(code).name


def tell_stopped(reason: str) -> None:
    """Leave the file that whoever started the ranks looks for."""
    if STOPPED_FILE in os.environ:
        Path(os.environ[STOPPED_FILE]).write_text(f"{reason}\n")

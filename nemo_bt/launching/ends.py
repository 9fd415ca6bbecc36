"""How ranks ended that a process of this machine has started."""

from __future__ import annotations

import signal
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from nemo_bt.launching.crowding import killed
from nemo_bt.launching.signals import STOPPED_STATUS

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_PATIENCE_S = 30
"""Time that torch gives ranks between SIGTERM and SIGKILL, when another has failed."""
_ASKED = (signal.SIGTERM, signal.SIGUSR1)
"""What ranks are asked to end with."""
_STUCK = "rank {rank} did not end when it was asked to: it was stopped, or hung in the kernel"


class RanksEnded(NamedTuple):
    """How local ranks ended.

    Args:
        status: 0, `STOPPED_STATUS`, the exit status of the rank that failed first, or 128 + n after signal n.
        message: what the ranks could not say themselves.
    """

    status: int
    message: str | None = None


def ended_by(failures: Collection[ProcessFailure], was_asked: bool) -> RanksEnded:
    """Tell how the rank ended that failed first, and name those that a signal ended: they could not say so."""
    first = min(failures, key=lambda failure: failure.timestamp)
    status, message = _own_end(first, was_asked)
    lines = [message] if message else []
    for other in failures:
        if other is first or other.exitcode >= 0 or -other.exitcode in _ASKED:
            continue
        is_ours = other.exitcode == -signal.SIGKILL and other.timestamp - first.timestamp >= _PATIENCE_S
        lines.append(_STUCK.format(rank=other.local_rank) if is_ours else str(_own_end(other, was_asked).message))
    return RanksEnded(status, "\n".join(lines) or None)


def _own_end(failure: ProcessFailure, was_asked: bool) -> RanksEnded:
    if was_asked and failure.exitcode in (STOPPED_STATUS, -signal.SIGUSR1):
        return RanksEnded(STOPPED_STATUS, "stopped before training")
    if failure.exitcode == 2:
        return RanksEnded(2, failure.message)
    if failure.exitcode == -signal.SIGKILL:
        return RanksEnded(1, killed(failure.local_rank))
    if failure.exitcode < 0:
        return RanksEnded(1, f"rank {failure.local_rank} was ended by {failure.signal_name()}")
    return RanksEnded(failure.exitcode)

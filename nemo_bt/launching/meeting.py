"""The ranks of a job meet before they read anything: who does not come is named, and waited for a bounded time.

They meet at MASTER_ADDR and MASTER_PORT, where torch.distributed meets later: at a store of whoever started the ranks,
or of rank 0, which holds it for the meeting alone.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nemo_bt.errors import UserError
from nemo_bt.launching.slurm import node_name, tasks_of_nodes

if TYPE_CHECKING:
    from torch.distributed import Store

_TELL_S = 30.0
_LOOK_S = 0.2
"""Between two looks. Store.wait would hear no signal meanwhile, and torch warns when it waits in vain."""
_LEAVE_S = 5.0
_VERDICT = "verdict"


def meet(timeout_s: float, tell_every_s: float = _TELL_S) -> None:
    """Wait until all ranks have come. Rank 0 says whom it waits for; where it is missing, a rank of each node does.

    Raises:
        UserError: ranks did not come within `timeout_s`, or the place to meet cannot be used.
        SystemExit: with 2, where rank 0 has said so.
    """
    from torch.distributed import PrefixStore

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size == 1:
        return
    patience = _Patience(timeout_s, tell_every_s, speaks=rank == 0 or os.environ.get("LOCAL_RANK") == "0")
    # torchrun starts ranks again beside the same store.
    prefix = f"nemo_bt/meeting/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store = PrefixStore(prefix, _store(rank, patience))
    store.set(f"rank-{rank}", node_name())
    if rank == 0:
        _wait_for_all(store, size, patience)
    else:
        _wait_for_first(store, rank, patience)


class _Patience:
    """How long a rank still waits, and when it next says for whom."""

    def __init__(self, timeout_s: float, tell_every_s: float, speaks: bool) -> None:
        self.start_s = time.monotonic()
        self.timeout_s = timeout_s
        self.tell_every_s = tell_every_s
        self.speaks = speaks
        self._next_s = tell_every_s

    def is_over(self, grace_s: float = 0.0) -> bool:
        return time.monotonic() - self.start_s > self.timeout_s + grace_s

    def is_to_tell(self) -> bool:
        """Whether so many seconds are over again; a rank that does not speak is never to."""
        return self.speaks and time.monotonic() - self.start_s >= self._next_s

    def tell(self, whom: str) -> None:
        waited_s = time.monotonic() - self.start_s
        self._next_s = waited_s + self.tell_every_s
        print(f"waiting since {waited_s:.0f} s for {whom}", file=sys.stderr, flush=True)


def _store(rank: int, patience: _Patience) -> Any:
    from torch.distributed import DistError, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_master = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    while not is_master and (why := _why_not_reached(address, port)):
        whom = f"rank 0 at {address} port {port} ({why})"
        if patience.is_over():
            raise UserError(
                f"rank {rank} did not find {whom} within {patience.timeout_s:g} s (trainer.start_timeout_s). Look for "
                "what ended rank 0, or set MASTER_ADDR and MASTER_PORT to an address and an open port of its node."
            )
        if patience.is_to_tell():
            patience.tell(whom)
        time.sleep(_LOOK_S)
    try:
        timeout = timedelta(seconds=max(5.0, patience.timeout_s))
        return TCPStore(address, port, is_master=is_master, timeout=timeout, wait_for_workers=False)
    except DistError as error:
        what = "listen at" if is_master else "use"
        raise UserError(
            f"rank {rank} cannot {what} {address} port {port}: {error}. Set MASTER_ADDR or MASTER_PORT, or open the "
            "port between the nodes."
        ) from error


def _why_not_reached(address: str, port: int) -> str | None:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError as error:
        return str(error)
    return None


def _wait_for_all(store: Store, size: int, patience: _Patience) -> None:
    others = range(1, size)
    while not store.check([f"rank-{one}" for one in others]):
        missing = [one for one in others if not store.check([f"rank-{one}"])]
        if patience.is_over():
            store.set(_VERDICT, "missing")
            _let_leave(store, [one for one in others if one not in missing])
            raise UserError(
                f"{len(missing)} of {size} ranks did not come within {patience.timeout_s:g} s "
                f"(trainer.start_timeout_s): {_told(store, missing, size)}. Look for what ended them, or why they were "
                "not started."
            )
        if patience.is_to_tell():
            patience.tell(_told(store, missing, size))
        time.sleep(_LOOK_S)
    store.set(_VERDICT, "all")
    _let_leave(store, others)


def _let_leave(store: Store, ranks: Iterable[int]) -> None:
    """Keep the store until these ranks have read the verdict, or seem to be gone."""
    keys = [f"left-{one}" for one in ranks]
    end_s = time.monotonic() + _LEAVE_S
    while not store.check(keys) and time.monotonic() < end_s:
        time.sleep(_LOOK_S / 10)


def _wait_for_first(store: Store, rank: int, patience: _Patience) -> None:
    from torch.distributed import DistNetworkError

    try:
        while not store.check([_VERDICT]):
            if patience.is_over(grace_s=2 * _LEAVE_S):  # rank 0 speaks first
                raise UserError(f"rank {rank}: rank 0 did not come within {patience.timeout_s:g} s.")
            if patience.is_to_tell() and not store.check(["rank-0"]):
                patience.tell("rank 0")
            time.sleep(_LOOK_S)
        is_complete = store.get(_VERDICT) == b"all"
        store.set(f"left-{rank}", "")
    except DistNetworkError as error:
        raise UserError(f"rank {rank}: rank 0 ended while this rank waited for others ({error}).") from error
    if not is_complete:
        sys.exit(2)


def _told(store: Store, missing: list[int], size: int) -> str:
    """Name the ranks that have not come, with their nodes where Slurm tells them, and the nodes of those that have."""
    came = Counter(store.get(f"rank-{one}").decode() for one in range(size) if one not in set(missing))
    nodes = [node for node, tasks in tasks_of_nodes(os.environ).items() if came[node] < tasks]
    of_nodes = f" of {_first_few(nodes)}" if nodes else ""
    return f"{'rank' if len(missing) == 1 else 'ranks'} {_ranges(missing)}{of_nodes}; here: {_first_few([*came])}"


def _first_few(names: list[str], count: int = 8) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _ranges(numbers: list[int]) -> str:
    """Write rising numbers shortly: 1-3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)

"""nemo-bt check-nodes: one process on each node of a Slurm job compares what has to be alike, before the job starts."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.config.device import runs_on_gpu
from nemo_bt.config.model import Settings
from nemo_bt.data.store.build import writing_to
from nemo_bt.data.store.cache import cache_folder
from nemo_bt.errors import UserError
from nemo_bt.launching.signals import running_s
from nemo_bt.launching.slurm import rank_variables
from nemo_bt.training import compiler
from nemo_bt.training.environment import Facts, differences, facts_of_node

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_WAIT = timedelta(seconds=60)
_LEAVE = timedelta(seconds=5)
_VERDICT = "verdict"


def check_nodes(settings: Settings) -> None:
    """Compare this node with all others; the first one says what differs.

    The nodes meet where the ranks of the training will.

    Raises:
        UserError: nodes differ, do not answer or lack what the run needs. Only the first node raises it; the others
            leave the message to it, except where they cannot find that node.
    """
    from torch.distributed import DistError, DistNetworkError, DistStoreError, TCPStore

    if "SLURM_NODEID" not in os.environ:
        raise UserError("check-nodes: expected to run under srun, one task on each node (see slurm/train.sbatch).")
    variables = rank_variables(os.environ)
    rank, num_nodes = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    node = os.environ.get("SLURMD_NODENAME", str(rank))
    address, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    try:
        socket.getaddrinfo(address, port)
    except OSError as error:
        raise UserError(
            f"node {node}: the name of the first node, {address}, does not resolve ({error}). Set MASTER_ADDR in "
            "slurm/env.sh to an address of that node."
        ) from error
    try:
        store = TCPStore(address, port, is_master=rank == 0, timeout=_WAIT, wait_for_workers=False)
    except (DistNetworkError, DistError) as error:
        what = "listen at" if rank == 0 else "reach"
        message = (
            f"node {node} cannot {what} {address} port {port}: {error}. Set MASTER_ADDR or "
            "MASTER_PORT in slurm/env.sh, or open the port between the nodes."
        )
        if rank:
            sys.exit(f"error: {message}")  # the first node does not know of it
        raise UserError(message) from error
    facts = facts_of_node(settings) | {"log directory": _mark(settings, node)}
    store.set(f"node-{rank}", json.dumps([node, facts]))
    if rank:
        is_alike = store.get(_VERDICT) == b"alike"
        store.set(f"left-{rank}", "")
        if not is_alike:
            sys.exit(2)
        return
    verdict = "different"
    try:
        _compare(store, num_nodes, settings)
        verdict = "alike"
    finally:
        store.set(_VERDICT, verdict)
        with suppress(DistStoreError):  # a node that is not there has no message to wait for
            store.wait([f"left-{other}" for other in range(1, num_nodes)], _LEAVE)


def _compare(store: TCPStore, num_nodes: int, settings: Settings) -> None:
    from torch.distributed import DistStoreError

    found: dict[str, Facts] = {}
    for rank in range(num_nodes):
        try:
            node, facts = json.loads(store.get(f"node-{rank}"))
        except DistStoreError as error:
            raise UserError(
                f"node number {rank} of the job did not answer within {_WAIT.seconds} s; {', '.join(found)} did."
            ) from error
        found[node] = facts
    lines = differences(found)
    folder = settings.exp_manager.log_dir
    marks = {node: folder / f".node-{node}" for node in found}
    lines += [f"node {node}: its log directory {folder} is not that of the others" for node in _missing(marks)]
    for mark in marks.values():
        mark.unlink(missing_ok=True)
    if lines:
        raise UserError("the nodes of this job are not alike.\n  " + "\n  ".join(lines))
    _check_this_node(settings)
    print(f"{num_nodes} nodes are alike: {', '.join(found)} ({running_s():.1f} s)")


def _check_this_node(settings: Settings) -> None:
    """Check what the run needs of a node, which here speaks for all, as they are alike."""
    on_gpu = runs_on_gpu(settings.trainer)
    if not on_gpu and settings.trainer.accelerator == "auto":
        print(
            "warning: these nodes have no GPU that the job can use: it trains on CPUs. Ask Slurm for GPUs "
            "(SBATCH_GPUS_PER_NODE, see slurm/env.sh), or set trainer.accelerator=cpu.",
            file=sys.stderr,
        )
    if on_gpu:
        from nemo_bt.training.checks import check_settings, run_architecture

        compiler.check(run_architecture(settings, check_settings(settings), num_tokens=1))
    folder = cache_folder(settings.model.data.cache_dir)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()


def _missing(marks: dict[str, Path]) -> list[str]:
    return [node for node, mark in marks.items() if not mark.exists()]


def _mark(settings: Settings, node: str) -> str:
    """Leave a file that the first node looks for: all nodes need the same log directory."""
    folder = settings.exp_manager.log_dir
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / f".node-{node}").touch()
        saved = saved_checkpoints(folder / "checkpoints")
    except OSError as error:
        return str(error)
    return f"can be written to; newest checkpoint {saved[-1].name if saved else 'none'}"

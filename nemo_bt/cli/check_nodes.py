"""nemo-bt check-nodes: one process on each node of a Slurm job compares what has to be alike, before the job starts."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.cli.sniff import Tried, rates_of, slow_devices, try_messages, try_products, wrong_results
from nemo_bt.config.device import runs_on_gpu
from nemo_bt.config.model import Settings
from nemo_bt.data.store.build import writing_to
from nemo_bt.data.store.cache import cache_folder
from nemo_bt.errors import UserError, first_line
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
        if is_alike:
            _try(store, rank, num_nodes, node, settings)
        store.set(f"left-{rank}", "")
        if not is_alike:
            sys.exit(2)
        return
    try:
        _compare(store, num_nodes, settings)
        store.set(_VERDICT, "alike")
        _try(store, rank, num_nodes, node, settings)
        _judge(store, num_nodes, runs_on_gpu(settings.trainer))
    finally:
        store.compare_set(_VERDICT, "", "different")  # unless it is there
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


def _try(store: TCPStore, rank: int, num_nodes: int, node: str, settings: Settings) -> None:
    """Multiply and exchange numbers that are known, and leave what came out for the first node.

    Raises:
        UserError: nodes do not reach each other.
    """
    kind = "cuda" if runs_on_gpu(settings.trainer) else "cpu"
    products = try_products(kind)
    try:
        messages = try_messages(kind, store, rank, num_nodes, _WAIT)
    except RuntimeError as error:  # what torch.distributed raises is one
        raise UserError(
            f"node {node} reaches the first node, but exchanged no numbers with its neighbours: {first_line(error)}. "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in slurm/env.sh say which network to take."
        ) from error
    store.set(f"tried-{rank}", json.dumps([node, [asdict(one) for one in (*products, *messages)]]))


def _judge(store: TCPStore, num_nodes: int, on_gpu: bool) -> None:
    """Compare what the nodes tried. Rates of CPUs are shown alone: their sizes are too small to judge by.

    Raises:
        UserError: a node computes or sends something wrong.
    """
    answers = [json.loads(store.get(f"tried-{rank}")) for rank in range(num_nodes)]
    found = {node: [Tried(**one) for one in tried] for node, tried in answers}
    wrong = wrong_results(found)
    if wrong:
        raise UserError("devices of this job compute wrong. Leave them out.\n  " + "\n  ".join(wrong))
    for line in slow_devices(found) if on_gpu else []:
        print(f"warning: {line}", file=sys.stderr)
    print(f"products and messages are right: {rates_of(found)} ({running_s():.1f} s)")


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

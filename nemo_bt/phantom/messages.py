"""Messages between ranks: process groups that send nothing, and what each message would be."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import ProcessGroup, get_process_group_ranks
from torch.testing._internal.distributed.fake_pg import FakeStore

_OPERATIONS = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "allgather_": "all_gather",
    "_allgather_base_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "reduce_scatter_": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "alltoall_base_": "all_to_all",
    "broadcast_": "broadcast",
    "send": "send",
    "recv_": "receive",
    "barrier": "barrier",
}
_WITH_OUTPUT = [name for name, operation in _OPERATIONS.items() if operation in ("all_gather", "reduce_scatter")]
_dist: Any = dist  # what is put in the place of its functions has types of its own


def message(func: Any, args: Any) -> tuple[str, tuple[int, ...], int]:
    """Give what an operation of torch.distributed sends: operation, ranks, bytes of the larger of input and output.

    Of an all_to_all it gives the bytes of the input, since what comes back depends on the others.
    """
    name = func.__name__.split(".")[0]
    group = next(ProcessGroup.unbox(arg) for arg in args if isinstance(arg, torch.ScriptObject) and _is_group(arg))
    tensors = args[:2] if name in _WITH_OUTPUT else args[1:2] if name == "alltoall_base_" else args[:1]
    return _OPERATIONS[name], tuple(get_process_group_ranks(group)), max(map(_num_bytes, tensors))


def _is_group(arg: torch.ScriptObject) -> bool:
    return "ProcessGroup" in str(arg._type())


def _num_bytes(tensors: Any) -> int:
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(map(_num_bytes, tensors)) if isinstance(tensors, list | tuple) else 0


def join_as(rank: int, world_size: int, devices: int, sends: bool = False) -> None:
    """Be one rank of a job whose other ranks are not there: what they would say is what this one says.

    Args:
        sends: whether messages arrive, as those that the only rank of a job sends itself.
    """
    backend, store = ("gloo", dist.HashStore()) if sends else ("fake", FakeStore())
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": "0",  # it sees one device, which has the number 0
        "LOCAL_WORLD_SIZE": str(devices),
        "GROUP_RANK": str(rank // devices),
        "NODE_RANK": str(rank // devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "phantom",
    }
    start = dist.init_process_group
    new_group = dist.new_group

    def started(*_: Any, **__: Any) -> None:
        start(backend, rank=rank, world_size=world_size, store=store)

    def grouped(ranks: Any = None, *_: Any, group_desc: str | None = None, **__: Any) -> Any:
        return new_group(ranks, backend=backend, group_desc=group_desc)

    def gathered(found: list[Any], own: Any, group: Any = None) -> None:
        found[:] = [own] * len(found)

    _dist.init_process_group = started
    _dist.new_group = _dist.distributed_c10d.new_group = grouped
    _dist.all_gather_object = gathered
    _dist.broadcast_object_list = lambda *_, **__: None


def group_names() -> dict[tuple[int, ...], str]:
    """Name Megatron's groups by their ranks; where two have the same ranks, the more usual name is taken."""
    from megatron.core import parallel_state as ps

    groups = {
        "world": dist.group.WORLD,
        "instance": ps.get_intra_distributed_optimizer_instance_group(),
        "tp_ep": ps.get_expert_tensor_and_model_parallel_group(),
        "expert_mp": ps.get_expert_tensor_model_pipeline_parallel_group(),
        "expert_dp": ps.get_expert_data_parallel_group(),
        "mp": ps.get_model_parallel_group(),
        "tp_cp": ps.get_tensor_and_context_parallel_group(),
        "dp_cp": ps.get_data_parallel_group(with_context_parallel=True),
        "ep": ps.get_expert_model_parallel_group(),
        "dp": ps.get_data_parallel_group(),
        "cp": ps.get_context_parallel_group(),
        "pp": ps.get_pipeline_model_parallel_group(),
        "tp": ps.get_tensor_model_parallel_group(),
    }
    inter = ps.get_inter_distributed_optimizer_instance_group(check_initialized=False)
    groups |= {"inter": inter} if inter else {}
    return {tuple(get_process_group_ranks(group)): name for name, group in groups.items()}

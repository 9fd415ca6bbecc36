"""What ranks hold alike is compared, a share of it in each step, so that a bit that changed by itself is found.

Dimensions: R ranks, G groups of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state
from torch import Tensor

from nemo_bt.checkpoint.find import name_aside, saved_checkpoints, step_of
from nemo_bt.errors import UserError
from nemo_bt.launching.slurm import node_name
from nemo_bt.observability.events import append_event
from nemo_bt.training.callbacks.digests import Difference, Held, Piece, differences, shares, told

WAITS_FOR_OTHERS = True
"""A rank waits here for an all-gather (nemo_bt.observability.failure)."""
NUM_GROUPS = 3
_DATA, _TENSOR, _EXPERTS = range(NUM_GROUPS)
"""Who holds a parameter: the data- and context-parallel ranks; the tensor-parallel ones too; those of an expert."""


class Replicas(pl.Callback):
    """Compares checksums of weights and, where each rank has all of them, of the optimizer's state and gradients.

    A step reads one share of `every_n_steps`, and the last step all. It does so behind the norm of the gradients: then
    the weights are complete, with `overlap_param_gather` too, and gradients are summed. One all-gather of a number for
    each group of ranks says the same to all. It is read before the next step, behind what `GracefulStop` has waited
    for; so this has to come after it, and before what saves.

    Args:
        every_n_steps: steps in which all is compared once.
        num_steps: steps of the run.
        log_dir: where events are told and checkpoints lie.
    """

    def __init__(self, every_n_steps: int, num_steps: int, log_dir: Path) -> None:
        self.every_n_steps = every_n_steps
        self.num_steps = num_steps
        self.log_dir = log_dir
        self._start_step = self._step = self._num_states = 0
        self._shares: list[list[Piece]] = []
        self._pieces: list[Piece] = []
        self._sums: list[Tensor] = []
        self._first: list[list[int]] = []
        """Of each rank and group: the first rank that holds the same."""
        self._answer: Callable[[], list[list[int]]] | None = None

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Tell the others with whom this rank shares what, and stand between Megatron's optimizer and its step."""
        self._start_step, self._num_states = trainer.global_step, -1
        own = [torch.distributed.get_process_group_ranks(group)[0] for group in _groups()]
        self._first = [own] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(self._first, own)
        optimizer = trainer.optimizers[0].mcore_optimizer
        optimizer.step_with_ready_grads = self._comparing(optimizer.step_with_ready_grads, trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: pl.LightningModule, *_: Any) -> None:
        """Hear what the step before compared, and list what there is to compare."""
        self._hear()
        optimizers = _optimizers(trainer)
        num_states = sum(len(one.state) for one in optimizers)
        if num_states != self._num_states:  # the first step makes the optimizer's state
            self._num_states = num_states
            self._shares = shares(_held(trainer.strategy.megatron_parallel, optimizers), self.every_n_steps)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hear the last step, before the end is saved."""
        self._hear()

    def _comparing(self, step: Callable[[], bool], trainer: Any, pl_module: Any) -> Callable[[], bool]:
        def comparing() -> bool:
            self._compare(trainer.global_step, pl_module.device)
            return step()

        return comparing

    @torch.no_grad()
    def _compare(self, step: int, device: torch.device) -> None:
        share = self._shares[step % self.every_n_steps]
        self._step = step
        self._pieces = [piece for one in self._shares for piece in one] if step == self.num_steps - 1 else share
        self._sums = [piece.checksum() for piece in self._pieces]
        nothing = torch.zeros((), dtype=torch.int64, device=device)
        of_group = [
            [
                nothing,
                *(found for piece, found in zip(self._pieces, self._sums, strict=True) if piece.held.group == group),
            ]
            for group in range(NUM_GROUPS)
        ]
        own_G = torch.stack([torch.stack(sums).sum() for sums in of_group])
        all_RG = own_G.new_empty(len(self._first), NUM_GROUPS)
        torch.distributed.all_gather_into_tensor(all_RG, own_G[None])
        self._answer = _on_host(all_RG)

    def _hear(self) -> None:
        """Compare the checksums of all ranks, of the step before.

        Raises:
            UserError: ranks that hold the same do not.
        """
        if self._answer is None:
            return
        sums, self._answer = self._answer(), None
        if all(
            sums[rank] == [sums[of][group] for group, of in enumerate(first)] for rank, first in enumerate(self._first)
        ):
            return
        own = {
            (piece.held.group, piece.held.name, piece.start): int(found)
            for piece, found in zip(self._pieces, self._sums, strict=True)
        }
        ranks: list[Any] = [None] * len(sums)
        torch.distributed.all_gather_object(ranks, (node_name(), own))  # all are here: all have heard the same
        nodes, of_pieces = zip(*ranks, strict=True)
        found = differences(self._first, of_pieces)
        message = [self._tell(found, nodes) if torch.distributed.get_rank() == 0 else ""]
        torch.distributed.broadcast_object_list(message)
        raise UserError(message[0])

    def _tell(self, found: Sequence[Difference], nodes: Sequence[str]) -> str:
        """Set checkpoints aside that may hold the change, append an event, and give the message."""
        alike_at = max(self._step - self.every_n_steps, self._start_step)
        saved = saved_checkpoints(self.log_dir / "checkpoints")
        before = [checkpoint.name for checkpoint in saved if step_of(checkpoint) <= alike_at]
        aside = []
        for checkpoint in saved[len(before) :]:
            aside.append(name_aside(checkpoint))
            checkpoint.rename(aside[-1])
        wrong = sorted({rank for one in found for rank in one.ranks})
        excluded = sorted({nodes[rank] for rank in wrong})
        facts = {"step": self._step, "ranks": wrong, "nodes": excluded, "alike_at": alike_at}
        tensors = [one.name for one in found]
        append_event(self.log_dir, "differs", **facts, tensors=tensors, set_aside=[path.name for path in aside])
        newest = f"{before[-1]} is from before" if before else f"no checkpoint of step {alike_at} or before is left"
        doubtful = f"; set aside, since they may hold it: {', '.join(path.name for path in aside)}" if aside else ""
        return (
            f"after step {self._step} ranks differ in what they should hold alike, as they did not at step "
            f"{alike_at}. {told(found, nodes)}. A bit changed by itself, in memory or on a chip. Leave the node out "
            f"(sbatch --exclude={','.join(excluded)}), have it tested, and resume: {newest}{doubtful}."
        )


def _groups() -> list[Any]:
    """Give the groups of ranks that hold the same, in the order of their numbers."""
    return [
        parallel_state.get_data_parallel_group(with_context_parallel=True),
        parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True),
        parallel_state.get_expert_data_parallel_group(),
    ]


def _optimizers(trainer: Any) -> list[Any]:
    """Give the optimizers inside Megatron's."""
    optimizer = trainer.optimizers[0].mcore_optimizer
    chained = getattr(optimizer, "chained_optimizers", [optimizer])
    return [one.optimizer for one in chained if one.optimizer is not None]


def _held(parts: Sequence[Any], optimizers: Sequence[Any]) -> list[Held]:
    """List what this rank holds as others do.

    With the distributed optimizer each rank has a part of gradients and of the optimizer's state, and only weights are
    whole.
    """
    found = []
    for number, part in enumerate(parts):
        is_sharded = part.module.ddp_config.use_distributed_optimizer
        for name, parameter in part.module.named_parameters():
            tensors = {"weight": _bits_of(parameter)}
            if not is_sharded and parameter.requires_grad:
                tensors |= _state_of(parameter, optimizers)
            place = f"{name.removeprefix('module.')}" + (f" (part {number})" if len(parts) > 1 else "")
            for kind, read in tensors.items():
                tensor = read()
                found.append(
                    Held(f"{kind} of {place}", tensor.numel(), tensor.element_size(), _group_of(parameter), read)
                )
    return found


def _group_of(parameter: Any) -> int:
    """Tell who holds a parameter.

    Tensor-parallel ranks share those whose gradients they add up; what else they hold alike may drift apart, where a
    kernel does not always add in the same order.
    """
    if not getattr(parameter, "allreduce", True):
        return _EXPERTS
    return _TENSOR if getattr(parameter, "sequence_parallel", False) else _DATA


def _bits_of(parameter: Any) -> Callable[[], Tensor]:
    """Read a weight; of one that Transformer Engine holds in FP8, its bytes."""
    names = [name for name in ("_data", "_rowwise_data") if getattr(parameter, name, None) is not None]
    return (lambda: getattr(parameter, names[0])) if names else (lambda: parameter.data)


def _state_of(parameter: Any, optimizers: Sequence[Any]) -> dict[str, Callable[[], Tensor]]:
    """Read the gradient of a parameter, its copy in fp32 and the optimizer's state, as far as there are any."""
    main = getattr(parameter, "main_param", None)
    key = parameter if main is None else main
    found: dict[str, Callable[[], Tensor]] = {"gradient": lambda: parameter.main_grad}
    if main is not None:
        found["main copy"] = lambda: main
    for state in (one.state[key] for one in optimizers if key in one.state):
        moments = [name for name, tensor in state.items() if isinstance(tensor, Tensor) and tensor.dim()]
        found |= {name: lambda state=state, name=name: state[name] for name in moments}
    return found


def _on_host(numbers: Tensor) -> Callable[[], list[list[int]]]:
    """Send numbers to the host, and give a function that waits until they are there, if they are not."""
    if numbers.device.type == "cpu":
        return numbers.tolist
    found = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
    is_there = torch.cuda.Event()
    is_there.record()

    def answer() -> list[list[int]]:
        if not is_there.query():
            is_there.synchronize()
        return found.tolist()

    return answer

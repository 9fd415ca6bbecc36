"""The kinds of faults, and those that happen inside a rank."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from benchmarks import fault_acts as acts
from benchmarks.fault_place import Fault


class Misbehaves(pl.Callback):
    """Has a rank hang, or flips a bit of its memory, in its third step.

    Args:
        what: hang, weight or gradient.
        flipped: file that says, afterwards, which tensor was changed and whether another rank holds it as well.
    """

    def __init__(self, what: str, fault: Fault, flipped: Path) -> None:
        self.what = what
        self.fault = fault
        self.flipped = flipped
        self.steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Stand before Megatron's optimizer, behind everything that has looked at gradients."""
        from megatron.core import parallel_state

        optimizer = trainer.optimizers[0].mcore_optimizer
        step = optimizer.step_with_ready_grads
        parameters = [(name, one) for name, one in pl_module.named_parameters() if one.requires_grad]
        num_copies = parallel_state.get_data_parallel_world_size(with_context_parallel=True)
        self.is_tensor_parallel = parallel_state.get_tensor_model_parallel_world_size() > 1
        self.is_replicated = num_copies > 1 and not trainer.strategy.ddp_config.use_distributed_optimizer

        def misbehaving() -> bool:
            self.steps += 1
            if self.steps == 3 and torch.distributed.get_rank() == self.fault.rank:
                self._misbehave(parameters)
            return step()

        optimizer.step_with_ready_grads = misbehaving

    def _misbehave(self, parameters: list[Any]) -> None:
        draw = self.fault.draw()
        if self.what == "hang":
            time.sleep(600)
        name, parameter = draw.choice(parameters)
        numbers = parameter.data if self.what == "weight" else parameter.main_grad
        at, bit = draw.randrange(numbers.numel()), draw.randrange(20, 31)
        numbers.view(torch.int32).view(-1)[at] ^= 1 << bit
        # With the distributed optimizer a change before its step is gathered by all, or overwritten on the one.
        is_shared = self.is_tensor_parallel and getattr(parameter, "sequence_parallel", False)
        is_held_twice = self.is_replicated or is_shared
        self.flipped.write_text(json.dumps({"name": name, "is_held_twice": is_held_twice}))


class Kind(NamedTuple):
    """A kind of faults.

    Args:
        when: before (the run does not run), start (it cannot start meanwhile), during, ending, or silent: a run that
            nobody ends goes wrong after it.
        act: does it, and gives what names it: a regular expression, or None where nobody is left who could.
        inside: for what happens in a rank: what `Misbehaves` does, and what names it.
        needs: mounts or clock.
        fewest_ranks: of a run that it can befall.
        at_start: whether it can befall a run that starts up. There torch alone bounds how long ranks wait for one (30
            minutes), nothing is mapped and no step is slow.
    """

    when: str
    act: Callable[..., Any] | None = None
    inside: tuple[str, str] | None = None
    needs: str | None = None
    fewest_ranks: int = 1
    at_start: bool = True


def _damage(how: str) -> Kind:
    return Kind("before", lambda place, fault: acts.damage_checkpoint(place, fault, how))


def _cache(how: str) -> Kind:
    return Kind("before", lambda place, fault: acts.change_cache(place, fault, how))


KINDS = {
    "a rank is killed": Kind("ending", acts.kill_rank),
    "all processes are killed": Kind("ending", acts.kill_all),
    "SIGTERM": Kind("ending", acts.ask),
    "a rank hangs": Kind("ending", inside=("hang", r"rank {rank} did nothing for")),
    "a rank is stopped for good": Kind("ending", acts.stop_for_good, fewest_ranks=2, at_start=False),
    "full disk": Kind("ending", acts.fill_disk, needs="mounts"),
    "disk turns read-only": Kind("ending", acts.turn_read_only, needs="mounts", at_start=False),
    "cached data cut while mapped": Kind("ending", acts.cut_cache, at_start=False),
    "bit of a weight": Kind("silent", inside=("weight", r"ranks differ .*\b{rank} \(node ")),
    "bit of a gradient": Kind("silent", inside=("gradient", r"ranks differ .*\b{rank} \(node ")),
    "stopped and continued": Kind("during", acts.stop_and_go_on),
    "slow rank": Kind("ending", acts.slow_rank, fewest_ranks=2, at_start=False),
    "clock jump": Kind("during", acts.clock_jump, needs="clock"),
    "data lost while running": Kind("during", acts.data_away),
    "cache lost while running": Kind("during", acts.cache_away),
    "bit of a checkpoint's file": _damage("bit"),
    "checkpoint's file cut": _damage("cut"),
    "checkpoint's file ends in zeros": _damage("zeros"),
    "checkpoint's file lost": _damage("lost"),
    "torn log": Kind("before", acts.tear_log),
    "bit of the cache": _cache("bit"),
    "cache cut": _cache("cut"),
    "cache ends in zeros": _cache("zeros"),
    "cache's file lost": _cache("lost"),
    "data lost": Kind("start", acts.lost_data),
    "data changed": Kind("start", acts.changed_data),
    "read-only disk": Kind("start", acts.read_only_disk, needs="mounts"),
    "full disk at start": Kind("start", acts.full_disk_at_start, needs="mounts"),
}

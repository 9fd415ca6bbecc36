"""The callback that names ranks which keep the others waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state
from megatron.core.utils import get_model_config

from nemo_bt.launching.slurm import node_name
from nemo_bt.observability.events import append_event
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.callbacks.slow_ranks import FEWEST_STEPS, slow_ranks
from nemo_bt.training.steps.data_module import PairSampler

WAITS_FOR_OTHERS = True
"""A rank waits here for an all-gather (nemo_bt.observability.failure)."""


class Stragglers(pl.Callback):
    """Compares the time of ranks' own work, with one all-gather at a log that has 20 steps behind it.

    Ranks wait for each other in collectives, so that a whole step takes all of them as long. A rank's own work is what
    lies between a step's start and the sum of gradients over data-parallel ranks: forward and backward passes, and the
    wait for data. Its peers are the ranks of its data-parallel group. Within it, a rank waits for those of its own
    model-parallel group, so a slow one makes them slow, and they are named with it. Time is the host's on a CPU, and
    that of the GPU's stream on a GPU, by events that are read at the log, where the host has waited for the GPU
    already: this has to come after `Monitor`. The first step of a start is left out.

    Args:
        sampler: what knows how long the host waited for data.
        every_n_steps: steps between two lines of metrics.
        log_dir: where events are told, on the first rank.
    """

    def __init__(self, sampler: PairSampler, terminal: Terminal, every_n_steps: int, log_dir: Path) -> None:
        self.sampler = sampler
        self.terminal = terminal
        self.every_n_steps = every_n_steps
        self.log_dir = log_dir
        self._marks: list[Any] = []
        self._steps: list[list[Any]] = []
        self._told: set[tuple[int, str]] = set()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Tell the others who this rank's peers are, and stand before the sum of gradients."""
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        own = (torch.distributed.get_process_group_ranks(group)[0], node_name())
        ranks: list[Any] = [own] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, own)
        self._first, self._nodes = ([rank[at] for rank in ranks] for at in range(2))
        self._mark = _on_stream if pl_module.device.type == "cuda" else time.perf_counter
        config = get_model_config(pl_module)
        config.finalize_model_grads_func = self._noting(config.finalize_model_grads_func)
        self._first_step = trainer.global_step

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin a step."""
        self._marks = [self._mark()]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Note the step; compare where a line was logged."""
        step = trainer.global_step
        if len(self._marks) == 2 and step > self._first_step + 1:
            self._steps.append(self._marks)
        else:
            self.sampler.waited_s = 0.0
        if step % self.every_n_steps == 0 and len(self._steps) >= FEWEST_STEPS:
            self._compare(step, pl_module.device)

    def _noting(self, finalize: Callable[..., None]) -> Callable[..., None]:
        def noting(*args: Any, **kwargs: Any) -> None:
            self._marks.append(self._mark())
            finalize(*args, **kwargs)

        return noting

    def _compare(self, step: int, device: torch.device) -> None:
        count = len(self._steps)
        own_s = sum(_seconds_between(*marks) for marks in self._steps) / count
        own = torch.tensor([[own_s, self.sampler.waited_s / count]], dtype=torch.float64, device=device)
        self._steps, self.sampler.waited_s = [], 0.0
        times = own.new_empty(len(self._first), 2)
        torch.distributed.all_gather_into_tensor(times, own)
        found = slow_ranks(times.tolist(), self._first)
        if torch.distributed.get_rank() == 0:
            for one in found:
                if (one.rank, one.on) not in self._told:
                    node, over = self._nodes[one.rank], round(one.factor - 1, 3)
                    self.terminal.line(
                        f"warning: step {step}: rank {one.rank} (node {node}) takes {over:.0%} longer than its peers "
                        f"over {count} steps, on {one.on}; the others wait for it"
                    )
                    facts = {"rank": one.rank, "node": node, "on": one.on, "longer": over}
                    append_event(self.log_dir, "slow", step=step, **facts)
        self._told = {(one.rank, one.on) for one in found}


def _on_stream() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000

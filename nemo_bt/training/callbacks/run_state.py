"""What a checkpoint holds of a run beside weights, optimizer and schedule, so that it goes on to the last bit."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state, tensor_parallel

from nemo_bt.metrics import NUM_SUMS, SUMS
from nemo_bt.training.callbacks.monitor import Monitor
from nemo_bt.training.callbacks.nonfinite import NonFiniteGuard
from nemo_bt.training.callbacks.validation import Validation
from nemo_bt.training.steps.data_module import PairSampler


class RunState(pl.Callback):
    """Holds every rank's random state and unlogged sums, the last validation, and what warnings and the run's end need.

    A run that goes on at another layout has the same sums, in other parts, and draws other random numbers.
    Which pairs a step has is a function of its number, so nothing is held of it.
    """

    def __init__(self, sampler: PairSampler, monitor: Monitor, validation: Validation, guard: NonFiniteGuard) -> None:
        self.sampler = sampler
        self.monitor = monitor
        self.validation = validation
        self.guard = guard
        self._random: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Gather the state of all ranks, so that each has the same: one collective."""
        sums = {name: sums_SM.tolist() for name, sums_SM in self.sampler.sums_SM.items()}
        tracker = tensor_parallel.get_cuda_rng_tracker()
        own = {
            "sums": sums,
            "interval": dict(self.monitor.interval),
            "random": {
                "layout": _layout(),
                "host": torch.get_rng_state(),
                "device": torch.cuda.get_rng_state(),
                "tracker": tracker.get_states(),
            },
        }
        ranks: list[dict[str, Any]] = [{}] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, own)
        return {
            "ranks": ranks,
            "validation": self.validation.record,
            "skipped_steps": self.sampler.skipped_steps,
            "skipped_in_a_row": self.guard.in_a_row,
            "losses": list(self.monitor.spikes.before),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this rank's part; if the number of ranks has changed, the first takes all sums."""
        self.validation.record = state_dict["validation"]
        self.sampler.skipped_steps = state_dict["skipped_steps"]
        self.guard.in_a_row = state_dict["skipped_in_a_row"]
        self.monitor.spikes.before.extend(state_dict["losses"])
        ranks = state_dict["ranks"]
        rank = torch.distributed.get_rank()
        if len(ranks) == torch.distributed.get_world_size():
            parts = [ranks[rank]]
            random = ranks[rank]["random"]
            self._random = random if random["layout"] == _layout() else None
        else:
            parts = ranks if rank == 0 else []
        self.monitor.interval = dict(ranks[0]["interval"])
        for part in parts:
            for name, sums in part["sums"].items():
                filled = [_as_now(sums_M, self.sampler.num_sums) for sums_M in sums]
                self.sampler.add_sums(name, torch.tensor(filled, dtype=torch.float64))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the random state back only now: building the model drew random numbers."""
        if self._random:
            torch.set_rng_state(self._random["host"])
            torch.cuda.set_rng_state(self._random["device"])
            tensor_parallel.get_cuda_rng_tracker().set_states(self._random["tracker"])


def _as_now(sums_M: list[float], num_sums: int) -> list[float]:
    """Fill up a source's sums to so many.

    Those that an earlier version did not count are unknown; its bins are empty, and so is what it knew of attributes.
    """
    if len(sums_M) == NUM_SUMS - 2:  # before ties were kept: every pair was ordered
        at = SUMS.index("ordered")
        sums_M = [*sums_M[:at], sums_M[0], 0.0, *sums_M[at:]]
    unknown = [math.nan] * (len(SUMS) - len(sums_M))
    return sums_M + unknown + [0.0] * (num_sums - len(sums_M) - len(unknown))


def _layout() -> list[int]:
    return [
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_pipeline_model_parallel_world_size(),
        parallel_state.get_context_parallel_world_size(),
        parallel_state.get_expert_model_parallel_world_size(),
        parallel_state.get_data_parallel_world_size(),
    ]

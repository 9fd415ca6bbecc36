"""More ranks than a machine without GPUs has cores or memory for: said before they start, and after one was killed."""

from __future__ import annotations

import resource

import psutil

_RANK_BYTES = 800_000_000
"""Resident memory of a process that has imported NeMo for the CPU, and built nothing."""


def crowding(num_ranks: int, cores: int, free_bytes: int) -> str | None:
    """Say what ranks without GPUs lack: cores, or memory. None where there is enough of both.

    Args:
        cores: those that this process may use.
        free_bytes: memory that is free now.
    """
    needed = num_ranks * _RANK_BYTES
    if needed > free_bytes:
        return (
            f"trainer.devices={num_ranks} ranks need about {needed / 1e9:.0f} GB before they have a model, and "
            f"{free_bytes / 1e9:.1f} GB are free: the system may end one. {cores} cores run {cores} ranks well"
        )
    if num_ranks > cores:
        return f"trainer.devices={num_ranks} ranks share {cores} cores: that trains nothing faster than {cores} ranks"
    return None


def killed(rank: int) -> str:
    """Say why a rank was most probably killed, and what the largest rank that has ended had used."""
    used_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return (
        f"rank {rank} was ended by SIGKILL, most often because memory ran out: the largest rank had "
        f"{used_bytes / 1e9:.1f} GB, the machine has {psutil.virtual_memory().total / 1e9:.1f} GB. Take fewer "
        "trainer.devices, a smaller model.data.tokens_per_micro_batch, or share the model out "
        "(model.tensor_model_parallel_size)."
    )

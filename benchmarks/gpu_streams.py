"""Streams of real pairs, with their prompts shared or repeated, for benchmarks of a model without a trainer."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from benchmarks import small_llama
from benchmarks.gpu_machine import Host
from benchmarks.small_llama import SMALL
from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.batching.stream import PairStream, TokenGroup, build_stream


@cache
def tokenizer_and_model(host: Host) -> Path:
    """Make a tokenizer learnt from the data, and give the folder of a small model that has it."""
    small_llama.make_tokenizer(host.data, host.folder / "tokenizer")
    small_llama.make_model(SMALL, host.folder / "tokenizer", host.folder / "small", seed=1)
    return host.folder / "small"


def real_groups(host: Host, name: str, num_pairs: int, seed: int = 1) -> list[TokenGroup]:
    """Give pairs of a set, in the order of training."""
    model = tokenizer_and_model(host)
    overrides = small_llama.training_overrides(model, host.data / f"{name}_train.parquet", host.folder / "unused", 1)
    pairs = small_llama.open_pairs(overrides, model)
    return pairs.groups(pairs_of_step(seed, 0, num_pairs, pairs.epoch))


def without_sharing(groups: list[TokenGroup]) -> list[TokenGroup]:
    """Give each side a prompt of its own."""
    return [
        TokenGroup(
            group.prefix[:0],
            tuple(np.concatenate([group.prefix, side]) for side in group.continuations),
            group.comparisons,
        )
        for group in groups
    ]


def streams_of(groups: list[TokenGroup], budget_tokens: int, multiple_of: int = 16) -> list[PairStream]:
    """Put groups into streams in their order, as many as each holds."""
    packed: list[list[TokenGroup]] = [[]]
    for group in groups:
        if packed[-1] and sum(g.num_tokens for g in packed[-1]) + group.num_tokens > budget_tokens:
            packed.append([])
        packed[-1].append(group)
    return [build_stream(together, 0, multiple_of) for together in packed]

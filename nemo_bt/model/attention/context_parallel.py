"""A stream over context-parallel ranks: who holds which rows, and what they send each other.

Shape suffixes: T = tokens in the stream, t = T / CP of them on this rank, G = key/value heads on this rank, D = head
size, C = continuations, c = those whose scored token this rank holds.
"""

from __future__ import annotations

import torch
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor

from nemo_bt.batching.context_shards import CHUNKS_PER_RANK, ContextShard, chunks_of, context_shard
from nemo_bt.batching.stream import to_device
from nemo_bt.model.attention.segments import scored_here


def held_here(num_held: int) -> ContextShard:
    """Tell which rows this rank holds; `num_held` is their number, t."""
    num_ranks = parallel_state.get_context_parallel_world_size()
    return context_shard(num_held * num_ranks, num_ranks, parallel_state.get_context_parallel_rank())


def own_rows(x_1T: Tensor) -> Tensor:
    """Take this rank's part, [1, t], of [1, T]."""
    num_ranks = parallel_state.get_context_parallel_world_size()
    if num_ranks == 1:
        return x_1T
    return torch.cat([x_1T[:, run.start : run.stop] for run in held_here(x_1T.shape[1] // num_ranks).runs], dim=1)


def keys_and_values_of_all(key_tGD: Tensor, value_tGD: Tensor) -> tuple[Tensor, Tensor]:
    """Gather keys and values of the whole stream, [T, G, D] each; the backward pass adds up what ranks return."""
    num_ranks = parallel_state.get_context_parallel_world_size()
    if num_ranks == 1:
        return key_tGD, value_tGD
    both_tG2D = torch.cat([key_tGD, value_tGD], dim=-1)
    gathered_TG2D = tensor_parallel.gather_from_sequence_parallel_region(
        both_tG2D, group=parallel_state.get_context_parallel_group()
    )
    chunks = gathered_TG2D.split(len(both_tG2D) // CHUNKS_PER_RANK)
    numbers = [number for rank in range(num_ranks) for number in chunks_of(num_ranks, rank)]
    in_order = sorted(range(len(chunks)), key=numbers.__getitem__)
    key_TGD, value_TGD = torch.cat([chunks[position] for position in in_order]).chunk(2, dim=-1)
    return key_TGD, value_TGD


def rewards_of_all(reward_c: Tensor, segments_C5: Tensor, shard: ContextShard) -> Tensor:
    """Sum over context-parallel ranks, so that each has the rewards of all continuations, [C] or [C, A].

    The backward pass hands each rank the gradients of its own: the loss is the same everywhere and counts once.

    Args:
        reward_c: rewards of continuations whose scored token this rank holds, and padding.
        shard: rows of this rank.
    """
    numbers, _ = scored_here(segments_C5, shard)
    if parallel_state.get_context_parallel_world_size() == 1:
        return reward_c[: len(numbers)]
    index = to_device(torch.tensor(numbers, dtype=torch.int64), reward_c.device)
    reward_C = reward_c.new_zeros(len(segments_C5), *reward_c.shape[1:]).index_copy(0, index, reward_c[: len(numbers)])
    return tensor_parallel.reduce_from_tensor_model_parallel_region(
        reward_C, group=parallel_state.get_context_parallel_group()
    )

"""Attention over the segments of a stream as one kernel that also knows a soft cap: torch's FlexAttention, for GPUs.

What a row sees is two runs of the stream, of its prefix and of its own continuation, so nothing is gathered: the
kernel skips the blocks of keys that no row of a block sees, and masks none of those that all of them see.

torch.compile makes the kernel from a few lines. Streams differ in length: the first lengths that it sees make it
compile up to three times, the last time for all lengths; training, forward passes that are computed again and
validation add one each. No later stream adds to these, whatever its window. A ninth compilation would end the run
(`fullgraph`), never fall back to a matrix of all rows and keys.

Shape suffixes: T = tokens in the stream, t = rows that this rank holds, N = query heads, G = key/value heads, D = head
size, Q = query rows of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from nemo_bt.batching.context_shards import ContextShard
from nemo_bt.batching.stream import to_device
from nemo_bt.model.attention.segments import AttentionRule, scored_here, segments_of

BLOCK = 128
"""Rows and keys of a block: what the kernel skips, masks or takes whole. It is torch's own."""
_LEAST_ROWS = 2 * BLOCK
"""Of a call for the scored rows alone: one block of rows, or less, would be compiled for itself."""


@dataclass(frozen=True)
class Visible:
    """What the rows of a call see.

    Args:
        query_rows_Q: places among the rows that this rank holds, int64; None for all as they lie.
        mask: of Q rows and T keys. It is the same for all layers with one window.
    """

    query_rows_Q: Tensor | None
    mask: BlockMask


FlexKernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, AttentionRule, BlockMask], Tensor]
"""Queries [1, N, Q, D], keys and values [1, G, T, D] -> [1, N, Q, D], zeros for a row that sees nothing."""


def segment_flex_attention(
    query_tND: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    segments_C5: Tensor,
    rule: AttentionRule,
    shard: ContextShard,
    kernel: FlexKernel | None = None,
) -> Tensor:
    """Compute `blocked_attention`, with products in the dtype of the query and sums in fp32.

    Args:
        segments_C5: `PairStream.segments_C5`, on the CPU.
        kernel: what computes it; None is the compiled one.
    """
    found = visible(segments_C5, rule, shard, len(query_tND), len(key_TGD), query_tND.device)
    query_QND = query_tND if found.query_rows_Q is None else query_tND[found.query_rows_Q]
    # Views would keep the queries, keys and values of all from which they were cut.
    query, key, value = (
        x.transpose(0, 1).unsqueeze(0) for x in (query_QND, key_TGD.contiguous(), value_TGD.contiguous())
    )
    out_QND = (kernel or _compiled)(query, key, value, rule, found.mask).squeeze(0).transpose(0, 1)
    return out_QND[: len(scored_here(segments_C5, shard)[0])] if rule.only_scored else out_QND


def _compiled(query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, mask: BlockMask) -> Tensor:
    out: Tensor = _compile()(
        query,
        key,
        value,
        score_mod=score_change(rule.softcap),
        block_mask=mask,
        scale=rule.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out


@lru_cache(maxsize=1)
def _compile() -> Callable[..., Any]:
    """Wrap it once. All lengths from the start (`dynamic`) would make the soft cap and the blocks variables too."""
    compiled: Callable[..., Any] = torch.compile(flex_attention, fullgraph=True)
    return compiled


def score_change(softcap: float | None) -> Callable[..., Tensor] | None:
    """Give c * tanh(score / c) as FlexAttention's score_mod; None without a soft cap c."""
    if not softcap:
        return None

    def capped(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def visible(
    segments_C5: Tensor, rule: AttentionRule, shard: ContextShard, num_held: int, num_keys: int, device: torch.device
) -> Visible:
    """Find what rows see in a stream of `num_keys` tokens, of which this rank holds `num_held`, `shard`.

    It is found on the host, once for all layers with the rule's window: the last answers are kept, a few hundred
    kilobytes each for 16,384 tokens.
    """
    segments = segments_C5.numpy().tobytes()
    return _visible(segments, rule.window, rule.only_scored, shard, num_held, num_keys, device)


@lru_cache(maxsize=64)
def _visible(
    segments: bytes,
    window: int,
    only_scored: bool,
    shard: ContextShard,
    num_held: int,
    num_keys: int,
    device: torch.device,
) -> Visible:
    segments_C5 = torch.from_numpy(np.frombuffer(segments, np.int32).reshape(-1, 5).copy())
    rows, runs_4Q = None, np.zeros((4, num_held), np.int32)
    if only_scored:
        _, scored = scored_here(segments_C5, shard)
        rows = np.zeros(max(_LEAST_ROWS, -(-len(scored) // BLOCK) * BLOCK), np.int64)
        rows[: len(scored)] = scored
        runs_4Q = np.zeros((4, len(rows)), np.int32)
    for segment in segments_of(segments_C5, only_scored, shard):
        prefix, own, num_prefix = segment.prefix, segment.own, segment.num_prefix
        for block in segment.blocks(num_held, 0, shard):
            end = block.num_before + np.arange(1, block.num_rows + 1)  # of the keys that a row sees, in the segment
            first = np.maximum(end - window, 0) if window else np.zeros_like(end)
            runs_4Q[:, block.out_rows] = (
                prefix.start + np.minimum(first, num_prefix),
                np.full_like(end, prefix.stop),
                own.start + np.maximum(first - num_prefix, 0),
                own.start + end - num_prefix,
            )
    with torch.inference_mode(False):  # a validation may ask first, and training go on with the answer
        query_rows_Q = None if rows is None else to_device(torch.from_numpy(rows), device)
        return Visible(query_rows_Q, _block_mask(runs_4Q, num_keys, device))


def _block_mask(runs_4Q: npt.NDArray[np.int32], num_keys: int, device: torch.device) -> BlockMask:
    """Make FlexAttention's mask of two runs of keys for each row: first, end, first, end."""
    first_2Q, end_2Q = runs_4Q[::2], runs_4Q[1::2]
    num_rows = first_2Q.shape[1]
    shape = -(-num_rows // BLOCK), -(-num_keys // BLOCK)
    touched = _counted(first_2Q // BLOCK, -(-end_2Q // BLOCK), first_2Q < end_2Q, shape) > 0
    whole_first_2Q, whole_end_2Q = -(-first_2Q // BLOCK), end_2Q // BLOCK
    whole = _counted(whole_first_2Q, whole_end_2Q, whole_first_2Q < whole_end_2Q, shape) == BLOCK
    runs = to_device(torch.from_numpy(runs_4Q), device)

    def sees(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        in_prefix = (runs[0, row] <= key) & (key < runs[1, row])
        return in_prefix | ((runs[2, row] <= key) & (key < runs[3, row]))

    mask = BlockMask.from_kv_blocks(
        *_listed(touched & ~whole), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(num_rows, num_keys)
    )
    moved = {name: to_device(x, device) for name, x in vars(mask).items() if isinstance(x, Tensor)}
    vars(mask).update(moved)  # its own `to` would make the host wait for every copy
    return mask


def _counted(
    first_2Q: npt.NDArray[np.int32], end_2Q: npt.NDArray[np.int32], counts_2Q: npt.NDArray[np.bool_], shape: Any
) -> npt.NDArray[np.int32]:
    """Count the rows of each block of rows that have each block of keys from first to end, [blocks, blocks]."""
    changes = np.zeros((shape[0], shape[1] + 1), np.int32)
    _, rows = np.nonzero(counts_2Q)
    np.add.at(changes, (rows // BLOCK, first_2Q[counts_2Q]), 1)
    np.add.at(changes, (rows // BLOCK, end_2Q[counts_2Q]), -1)
    return changes.cumsum(axis=1, dtype=np.int32)[:, :-1]


def _listed(blocks: npt.NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Give the number of blocks of keys for each block of rows, and their numbers first in a row, as FlexAttention."""
    numbers = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(blocks.sum(axis=1, dtype=np.int32))[None, None], torch.from_numpy(numbers)[None, None]

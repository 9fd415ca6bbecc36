"""Conversations as token ids -> groups that share a prefix, whoever wrote them and wherever they stand.

Shape suffixes: N = conversations, in the order of their ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from nemo_bt.batching.packing import PairSizes
from nemo_bt.batching.stream import Ids, TokenGroup, shared_prefix

_LEAST_SHARED = 16
"""Tokens of a prefix; a shorter one costs more calls of attention than it saves."""
_MOST_TOGETHER = 64
"""Conversations of a group; a longer run of them would save little more, and looking for it takes long."""


def share_prefixes(ids: Sequence[Ids], budget_tokens: int) -> list[tuple[list[int], int]]:
    """Put conversations that begin alike together.

    Sorted by their ids, those with a common start are neighbours. No other way to cut that order into groups of at most
    64 saves more tokens.

    Args:
        ids: conversations, no two the same, each of at least one token and at most `budget_tokens`.
        budget_tokens: most tokens of a group, its prefix counted once.

    Returns:
        The positions of each group's conversations, and the tokens of its prefix. [1, 2, .., 20, 21] and
        [1, 2, .., 20, 22, 23] are one group with a prefix of 20; each keeps one token to be scored at.
    """
    order = sorted(range(len(ids)), key=lambda i: ids[i].astype(">u4").tobytes())
    common = [0, *(shared_prefix(ids[a], ids[b]) for a, b in itertools.pairwise(order))]
    saved = [0]  # the most that the conversations before each can save
    cuts = [(0, 0)]  # the last group of these
    for end in range(1, len(order) + 1):
        best = saved[-1]
        cut = (end - 1, 0)
        prefix = budget_tokens
        tokens = len(ids[order[end - 1]])
        for start in range(end - 2, max(-1, end - 1 - _MOST_TOGETHER), -1):
            prefix = min(prefix, common[start + 1])
            others = end - 1 - start
            tokens += len(ids[order[start]])
            if prefix < _LEAST_SHARED or tokens - others * prefix > budget_tokens:
                break
            if saved[start] + others * prefix > best:
                best = saved[start] + others * prefix
                cut = (start, prefix)
        saved.append(best)
        cuts.append(cut)
    groups = []
    end = len(order)
    while end:
        start, prefix = cuts[end]
        groups.append((order[start:end], prefix))
        end = start
    return groups


def as_groups(ids: Sequence[Ids], found: Sequence[tuple[list[int], int]]) -> list[TokenGroup]:
    """Cut conversations as `share_prefixes` found, for a stream."""
    return [
        TokenGroup(ids[members[0]][:prefix], tuple(ids[member][prefix:] for member in members))
        for members, prefix in found
    ]


def sizes_of(groups: Sequence[TokenGroup], hidden_size: int) -> PairSizes:
    """Measure what packing has to know about groups."""
    attended = []
    for group in groups:
        prefix = len(group.prefix)
        tokens = np.array([len(continuation) for continuation in group.continuations], dtype=np.int64)
        attended.append(prefix * (prefix + 1) // 2 + int((tokens * (tokens + 1) // 2 + prefix * tokens).sum()))
    return PairSizes(
        np.array([group.num_tokens for group in groups], dtype=np.int64),
        np.array(attended, dtype=np.int64),
        hidden_size,
        np.array([len(group.continuations) for group in groups], dtype=np.int64),
    )

"""In which stream, and on which rank, each pair of a step is computed.

Everything here is a pure function of the step's pairs: any rank computes the same plan.

A pair is a list of two sides; where the loss takes lists, what is said of pairs here holds of them.

Shape suffixes: P = pairs of a step, K = sides of the longest, B = groups of pairs, C = continuations.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nemo_bt.batching.shuffle import Ints

Floats: TypeAlias = npt.NDArray[np.float64]
Streams: TypeAlias = list[list[int]]
"""Items (as positions in the step's list) of each stream."""


@dataclass(frozen=True)
class PairSizes:
    """What packing has to know about N items: pairs, or groups of them.

    Args:
        tokens: stream tokens of each, [N], int64.
        attended: pairs of a query and a key that it sees, itself included, [N], int64.
        hidden_size: width of the model.
        continuations: scored sequences of each, [N], int64.
    """

    tokens: Ints
    attended: Ints
    hidden_size: int
    continuations: Ints

    @property
    def cost(self) -> Floats:
        """Compute of each in units of one token through the linear layers, [N].

        A token that attends to n others costs about 4 n hidden FLOPs beside the 24 hidden^2 of a layer's linear
        parts, so n / (6 hidden) tokens. A prefix of 8 with two continuations of 4 costs
        16 + (36 + 42 + 42) / 1536 = 16.08 at width 256.
        """
        return np.asarray(self.tokens + self.attended / (6 * self.hidden_size), dtype=np.float64)


@dataclass(frozen=True)
class PairParts:
    """Where the parts of a step's pairs or lists lie, [P] each; equal places are the same tokens.

    Args:
        prompt: number of the prompt; pairs of one have the same prefix.
        prefix_tokens: tokens that both sides share.
        start_PK: place of each side's continuation; -1 where a comparison has fewer than K sides.
        tokens_PK: their lengths; 0 there.
    """

    prompt: Ints
    prefix_tokens: Ints
    start_PK: Ints
    tokens_PK: Ints


def group_pairs(parts: PairParts, budget_tokens: int, hidden_size: int) -> tuple[Streams, PairSizes]:
    """Group the pairs of each prompt, so that they are computed in one stream and the prompt once.

    A response that stands in several pairs counts once. A group that would be longer than a stream becomes several.

    Args:
        budget_tokens: longest stream; no single pair may be longer.

    Returns:
        Positions of the pairs of each group, in order of their first pair, and the groups' sizes, [B].
    """
    by_prompt: dict[int, list[int]] = {}
    for pair, prompt in enumerate(parts.prompt.tolist()):
        by_prompt.setdefault(prompt, []).append(pair)
    groups = [group for pairs in by_prompt.values() for group in _within(parts, pairs, budget_tokens)]
    heads = np.array([group[0] for group in groups])
    owner_C, kept_C = _continuations(parts, groups)
    prefix_B = parts.prefix_tokens[heads].astype(np.int64)
    tokens_C = parts.tokens_PK.reshape(-1)[kept_C].astype(np.int64)
    attended_C = _causal(tokens_C) + prefix_B[owner_C] * tokens_C  # each token of a continuation reads the prefix too
    tokens_B = prefix_B + np.bincount(owner_C, tokens_C, len(groups)).astype(np.int64)
    attended_B = _causal(prefix_B) + np.bincount(owner_C, attended_C, len(groups)).astype(np.int64)
    return groups, PairSizes(tokens_B, attended_B, hidden_size, np.bincount(owner_C, minlength=len(groups)))


def _causal(tokens: Ints) -> Ints:
    """Count the pairs of a query and a key in a causal run of so many tokens."""
    return tokens * (tokens + 1) // 2


def _continuations(parts: PairParts, groups: Streams) -> tuple[Ints, Ints]:
    """Give the group of each continuation that is computed, and its position among all sides of all pairs."""
    most = parts.start_PK.shape[1]
    num_sides = (parts.start_PK >= 0).sum(1).tolist()
    owner = []
    kept = []
    for number, group in enumerate(groups):
        sides = [pair * most + k for pair in group for k in range(num_sides[pair])]
        if len(group) > 1:
            sides = list({int(parts.start_PK.flat[side]): side for side in sides}.values())
        owner += [number] * len(sides)
        kept += sides
    return np.array(owner), np.array(kept)


def _within(parts: PairParts, pairs: list[int], budget_tokens: int) -> Streams:
    """Pack the pairs of one prompt one after the other, each into the last group if it has room."""
    if len(pairs) == 1:
        return [pairs]
    groups: Streams = []
    seen: set[int] = set()
    room = -1
    for pair in pairs:
        sides = dict(zip(parts.start_PK[pair].tolist(), parts.tokens_PK[pair].tolist(), strict=True))
        sides.pop(-1, None)
        new = {start: tokens for start, tokens in sides.items() if start not in seen}
        if not groups or sum(new.values()) > room:
            groups.append([])
            new = sides
            seen = set()
            room = budget_tokens - int(parts.prefix_tokens[pair])
        groups[-1].append(pair)
        seen |= new.keys()
        room -= sum(new.values())
    return groups


def plan_streams(
    sizes: PairSizes, tokens_per_stream: int, data_parallel_size: int, multiple_of: int = 1
) -> list[Streams]:
    """Pack pairs into the fewest streams that fit, the same number on each rank, balanced by cost.

    Args:
        tokens_per_stream: budget of a stream; no pair may be longer.
        multiple_of: divides the number of streams on each rank; an interleaved pipeline asks for it.

    Returns:
        The streams of each data-parallel rank. Every pair is in exactly one. A rank can hold an empty stream when
        there are fewer pairs than streams.

    Raises:
        ValueError: a pair is longer than a stream.
    """
    if len(sizes.tokens) and sizes.tokens.max() > tokens_per_stream:
        raise ValueError(f"expected pairs of at most {tokens_per_stream} tokens, got {sizes.tokens.max()}")
    num_streams = -(-int(sizes.tokens.sum()) // tokens_per_stream)
    cost = sizes.cost
    together = data_parallel_size * multiple_of
    while True:
        num_streams = -(-max(num_streams, 1) // together) * together
        for rule in ("least loaded", "tightest"):
            streams = _place(sizes.tokens, cost, num_streams, tokens_per_stream, rule)
            if streams is not None:
                return _deal(streams, cost, data_parallel_size)
        num_streams += 1


def _place(tokens: Ints, cost: Floats, num_streams: int, budget: int, rule: str) -> Streams | None:
    """Place pairs, long ones first, each in the stream with room that is cheapest so far, or that has least room.

    The first rule balances; the second, best fit, still finds a place where balancing left none.
    """
    streams: Streams = [[] for _ in range(num_streams)]
    load = np.zeros(num_streams)
    room = np.full(num_streams, budget, dtype=np.int64)
    for pair in np.argsort(-tokens, kind="stable"):
        fits = room >= tokens[pair]
        if not fits.any():
            return None
        badness = load if rule == "least loaded" else room
        stream = int(np.argmin(np.where(fits, badness, np.inf)))
        streams[stream].append(int(pair))
        load[stream] += cost[pair]
        room[stream] -= tokens[pair]
    return streams


def _deal(streams: Streams, cost: Floats, data_parallel_size: int) -> list[Streams]:
    """Give each rank the same number of streams, the dearest first to the rank with the least so far."""
    each = len(streams) // data_parallel_size
    stream_cost = [float(cost[stream].sum()) for stream in streams]
    ranks: list[Streams] = [[] for _ in range(data_parallel_size)]
    by_load = [(0.0, rank) for rank in range(data_parallel_size)]
    for index in sorted(range(len(streams)), key=lambda i: (-stream_cost[i], i)):
        load, rank = heapq.heappop(by_load)
        ranks[rank].append(sorted(streams[index]))
        if len(ranks[rank]) < each:
            heapq.heappush(by_load, (load + stream_cost[index], rank))
    return ranks

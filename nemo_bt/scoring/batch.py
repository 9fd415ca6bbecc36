"""Conversations -> streams for every rank -> their rewards, in their order.

Shape suffixes: C = continuations of a stream, D = distinct conversations, R = the reward and each attribute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from nemo_bt.batching.packing import Streams, plan_streams
from nemo_bt.batching.prefix_groups import as_groups, share_prefixes, sizes_of
from nemo_bt.batching.stream import Ids, TokenGroup, build_stream
from nemo_bt.config.length import LengthLimit
from nemo_bt.data.formats.responses import Side, Text
from nemo_bt.data.pairs.checks import lost_part, stray_bos
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.chat_template import Renderer

if TYPE_CHECKING:
    from nemo_bt.scoring.engine import Engine


@dataclass(frozen=True)
class StreamRules:
    """How streams are filled.

    Args:
        budget_tokens: tokens that fit into a stream; a longer conversation has a stream of its own length.
        multiple_of: number that divides the tokens of every stream.
        num_ranks: data-parallel ranks.
    """

    budget_tokens: int
    multiple_of: int
    num_ranks: int
    hidden_size: int


@dataclass(frozen=True)
class Batch:
    """Conversations that are computed together. Every rank has the same batch.

    Args:
        place: index of each conversation among the distinct ones; None where it cannot be scored.
        refused: why a conversation cannot be scored, by its position.
        groups: distinct conversations, grouped by what they begin with.
        members: places of the conversations in each group.
        ranks: streams of each data-parallel rank, as lists of groups.
        num_tokens: tokens of all streams.
    """

    place: list[int | None]
    refused: dict[int, RowError]
    groups: list[TokenGroup]
    members: list[list[int]]
    ranks: list[Streams]
    num_tokens: int


@dataclass(frozen=True)
class Tokens:
    """Conversations as token ids.

    Args:
        ids: token ids of each conversation.
        refused: why a conversation cannot be scored, by its position.
    """

    ids: list[Ids]
    refused: dict[int, RowError]


def tokenise(conversations: Sequence[Sequence[Side]], renderer: Renderer, limit: LengthLimit) -> Tokens:
    """Render conversations and turn them into token ids.

    Args:
        conversations: lists that share a prompt, where it is known: each list is tokenised together.
        renderer: template and tokenizer of the model.
        limit: longest conversation that gets a reward.

    Raises:
        UserError: there are messages, but no chat template.
    """
    flat = [side for sides in conversations for side in sides]
    texts = renderer.texts(flat)
    refused = {position: text for position, text in enumerate(texts) if isinstance(text, RowError)}
    coming = iter(enumerate(texts))
    by_prompt = [
        [(position, text) for position, text in islice(coming, len(sides)) if isinstance(text, str)]
        for sides in conversations
    ]
    of_messages = [any(not isinstance(side, Text) for side in sides) for sides in conversations]
    encoded = renderer.ids([[text for _, text in numbered] for numbered in by_prompt], of_messages)
    ids: list[Ids] = [np.empty(0, np.int32)] * len(flat)
    for (position, text), ids_of_one in zip(chain(*by_prompt), chain(*encoded), strict=True):
        ids[position] = ids_of_one
        error = _wrong(flat[position], ids_of_one, text, renderer, limit)
        if error:
            refused[position] = error
    return Tokens(ids, refused)


def _wrong(side: Side, ids: Ids, text: str, renderer: Renderer, limit: LengthLimit) -> RowError | None:
    lost = lost_part(side, text)
    if lost:
        return RowError("lost", lost)
    if not len(ids) or renderer.wrong_bos(ids) or stray_bos(renderer, side):
        return RowError("bos", f"{text[:60]!r}")
    if ids[-1] == renderer.pad_id:
        return RowError("pad", f"id {ids[-1]}")
    return RowError("long", f"{len(ids)} tokens, longer than {limit.words}") if len(ids) > limit.tokens else None


def plan(tokens: Tokens, rules: StreamRules) -> Batch:
    """Put conversations into streams; a repeated one is computed once, and so is what several begin with."""
    places: dict[bytes, int] = {}
    place = [
        None if position in tokens.refused else places.setdefault(ids.tobytes(), len(places))
        for position, ids in enumerate(tokens.ids)
    ]
    different = list({at: ids for at, ids in zip(place, tokens.ids, strict=True) if at is not None}.values())
    budget = max([rules.budget_tokens, *map(len, different)])
    found = share_prefixes(different, budget)
    groups = as_groups(different, found)
    sizes = sizes_of(groups, rules.hidden_size)
    ranks = plan_streams(sizes, budget, rules.num_ranks) if groups else [[] for _ in range(rules.num_ranks)]
    num_tokens = int(sizes.tokens.sum())
    return Batch(place, tokens.refused, groups, [members for members, _ in found], ranks, num_tokens)


def compute(batch: Batch, engine: Engine, pad_id: int, multiple_of: int) -> list[float | None]:
    """Give the rewards of a batch's conversations to every rank, which calls it; None where there is no finite one."""
    return [None if one is None else one[0] for one in compute_all(batch, engine, pad_id, multiple_of)]


def compute_all(batch: Batch, engine: Engine, pad_id: int, multiple_of: int) -> list[list[float] | None]:
    """Give the reward of each conversation, and behind it its attributes, as `compute` does."""
    from megatron.core import parallel_state

    from nemo_bt.scoring.engine import is_counted

    own = batch.ranks[parallel_state.get_data_parallel_rank()]
    streams = [build_stream([batch.groups[group] for group in stream], pad_id, multiple_of) for stream in own]
    reward_DR = torch.zeros(sum(map(len, batch.members)), 1 + len(engine.attributes), dtype=torch.float32)
    found = engine.all_rewards(streams)
    if is_counted():
        for stream, reward_CR in zip(own, found, strict=True):
            places = [place for group in stream for place in batch.members[group]]
            reward_DR[places] = reward_CR
    rewards = engine.sum_of_ranks(reward_DR).tolist()
    values = [of_one if all(map(math.isfinite, of_one)) else None for of_one in rewards]
    return [None if place is None else values[place] for place in batch.place]

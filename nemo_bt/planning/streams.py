"""The streams that a layout makes of a step's pairs, without their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from nemo_bt.batching.packing import PairParts
from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.batching.shuffle import Ints
from nemo_bt.config.model import Settings
from nemo_bt.config.plan import LengthSettings
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.errors import UserError
from nemo_bt.planning.rows import StreamRows
from nemo_bt.training.steps.plan import plan_step

_ENOUGH_PAIRS = 8192


@dataclass(frozen=True)
class Pairs:
    """Pairs to plan with.

    Args:
        parts_of_step: gives where the pairs of a step lie and how long they are.
        num_pairs: pairs of an epoch.
    """

    parts_of_step: Callable[[int], PairParts]
    num_pairs: int


@dataclass(frozen=True)
class StreamLoad:
    """One stream.

    Args:
        rows: rows on a rank that has as many scored tokens as the average.
        num_tokens: tokens without padding.
        num_attended: pairs of a query and a key that it sees.
    """

    rows: StreamRows
    num_tokens: int
    num_attended: int


def pairs_of_set(pairs: PairSet, settings: Settings) -> Pairs:
    """Give the pairs of a data set."""

    def parts_of_step(step: int) -> PairParts:
        return pairs.parts(pairs_of_step(settings.trainer.seed, step, settings.model.global_batch_size, pairs.epoch))

    return Pairs(parts_of_step, len(pairs.epoch))


def drawn_pairs(lengths: LengthSettings, settings: Settings) -> Pairs:
    """Draw pairs of lengths alone; no two pairs have the same prompt.

    Raises:
        UserError: the quantiles are none, or a pair can be longer than a stream.
    """
    prefix = lengths.prefix_tokens
    response = lengths.response_tokens
    quantiles = lengths.quantiles
    rising = all(sorted(values) == values and len(values) == len(prefix) for values in (quantiles, prefix, response))
    if not rising or len(prefix) < 2 or quantiles[0] != 0 or quantiles[-1] != 1:
        raise UserError(
            "plan.lengths: expected quantiles from 0 to 1, prefix_tokens and response_tokens, all rising and of one "
            f"length; got {quantiles}, {prefix} and {response}."
        )
    most = prefix[-1] + 2 * response[-1]
    budget = settings.model.data.tokens_per_micro_batch
    if most > budget or response[0] < 1 or prefix[0] < 0:
        raise UserError(
            f"plan.lengths: expected responses of 1 token or more, got {response[0]}, prefixes of 0 or more, got "
            f"{prefix[0]}, and pairs of at most model.data.tokens_per_micro_batch={budget} tokens, got {prefix[-1]} + "
            f"2 x {response[-1]} = {most}."
        )

    def parts_of_step(step: int) -> PairParts:
        size = settings.model.global_batch_size
        share_3P = np.random.default_rng((settings.trainer.seed, step)).random((3, size))
        prefix_P, chosen_P, rejected_P = (
            np.rint(np.interp(share_P, quantiles, values)).astype(np.int64)
            for share_P, values in zip(share_3P, (prefix, response, response), strict=True)
        )
        numbers: Ints = np.arange(2 * size)
        return PairParts(
            prompt=numbers[:size],
            prefix_tokens=prefix_P,
            start_PK=numbers.reshape(size, 2),
            tokens_PK=np.stack([chosen_P, rejected_P], axis=1),
        )

    return Pairs(parts_of_step, lengths.num_pairs)


Step: TypeAlias = list[list[StreamLoad]]
"""Streams of each data-parallel rank."""


def steps_of(settings: Settings, pairs: Pairs, num_steps: int, hidden_size: int) -> list[Step]:
    """Give the first `num_steps` steps; fewer where they are large."""
    enough = max(1, min(num_steps, _ENOUGH_PAIRS // settings.model.global_batch_size))
    return [streams_of_step(settings, pairs, step, hidden_size) for step in range(enough)]


def slowest_rank(step: Step, hidden_size: int) -> list[StreamLoad]:
    """Give the streams of the rank for which all others wait, by the cost that packing balances."""
    return max(step, key=lambda streams: sum(one.rows.tokens + one.num_attended / (6 * hidden_size) for one in streams))


def mean_load(streams: Sequence[StreamLoad]) -> StreamLoad:
    """Give the average stream, in whole rows."""

    def mean(values: Iterable[int]) -> int:
        return round(sum(values) / len(streams))

    rows = [one.rows for one in streams]
    return StreamLoad(
        rows=StreamRows(
            *(mean(getattr(one, name) for one in rows) for name in ("tokens", "continuations", "scored", "copied"))
        ),
        num_tokens=mean(one.num_tokens for one in streams),
        num_attended=mean(one.num_attended for one in streams),
    )


def streams_of_step(settings: Settings, pairs: Pairs, step: int, hidden_size: int) -> Step:
    """Give the streams of each data-parallel rank in a step; the first step is 0."""
    parts = pairs.parts_of_step(step)
    plan = plan_step(settings, parts, hidden_size)
    sizes = plan.sizes
    prefix_B = parts.prefix_tokens[[group[0] for group in plan.groups]]
    copied_B = np.maximum(0, sizes.continuations - 1) * prefix_B
    context_ranks = settings.model.context_parallel_size
    ranks = []
    for rank, streams in enumerate(plan.ranks):
        loads = []
        for stream, length in zip(streams, plan.lengths(rank), strict=True):
            counts = (sizes.continuations, copied_B, sizes.tokens, sizes.attended)
            continuations, copied, tokens, attended = (int(values[stream].sum()) for values in counts)
            rows = StreamRows(length, continuations, -(-continuations // context_ranks), copied)
            loads.append(StreamLoad(rows, tokens, attended))
        ranks.append(loads)
    return ranks

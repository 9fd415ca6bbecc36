"""The streams that a layout makes of a step's pairs, without their tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nemo_bt.data.pairs import PairSet
from nemo_bt.epoch import Ints, pairs_of_step
from nemo_bt.errors import UserError
from nemo_bt.packing import PairParts
from nemo_bt.plan.activations import StreamRows
from nemo_bt.plan.settings import LengthSettings
from nemo_bt.settings import Settings
from nemo_bt.step import plan_step


@dataclass(frozen=True)
class Pairs:
    """Pairs to plan with.

    Args:
        parts_of_step: of each step's pairs, where they lie and how long they are.
        num_pairs: of an epoch.
    """

    parts_of_step: Callable[[int], PairParts]
    num_pairs: int


@dataclass(frozen=True)
class StreamLoad:
    """One stream.

    Args:
        rows: on a rank that has as many scored tokens as the average.
        num_tokens: without filling.
        num_attended: pairs of a query and a key that it sees.
    """

    rows: StreamRows
    num_tokens: int
    num_attended: int


def pairs_of_set(pairs: PairSet, settings: Settings) -> Pairs:
    """Of a data set."""

    def parts_of_step(step: int) -> PairParts:
        numbers = pairs_of_step(settings.trainer.seed, step, settings.model.global_batch_size, pairs.epoch)
        return pairs.parts(numbers)

    return Pairs(parts_of_step, len(pairs.epoch))


def drawn_pairs(lengths: LengthSettings, settings: Settings) -> Pairs:
    """Of lengths alone; no two pairs have the same prompt.

    Raises:
        UserError: the quantiles are none, or a pair can be longer than a stream.
    """
    prefix, response = lengths.prefix_tokens, lengths.response_tokens
    rising = [lengths.quantiles, prefix, response]
    if any(sorted(values) != values or len(values) != len(prefix) for values in rising) or len(prefix) < 2:
        raise UserError(
            "plan.lengths: expected quantiles, prefix_tokens and response_tokens that rise, of one length, 2 or more; "
            f"got {lengths.quantiles}, {prefix} and {response}."
        )
    most, budget = prefix[-1] + 2 * response[-1], settings.model.data.tokens_per_micro_batch
    if most > budget or response[0] < 1:
        raise UserError(
            f"plan.lengths: expected responses of 1 token or more, got {response[0]:g}, and pairs of at most "
            f"model.data.tokens_per_micro_batch={budget} tokens, got {prefix[-1]:g} + 2 x {response[-1]:g} = {most:g}."
        )

    def parts_of_step(step: int) -> PairParts:
        size = settings.model.global_batch_size
        share = np.random.default_rng((settings.trainer.seed, step)).random((3, size))
        drawn = [
            np.interp(share[side], lengths.quantiles, values)
            for side, values in enumerate((prefix, response, response))
        ]
        prefix_P, chosen_P, rejected_P = (np.rint(values).astype(np.int64) for values in drawn)
        numbers: Ints = np.arange(2 * size)
        return PairParts(
            prompt=numbers[:size],
            prefix_tokens=prefix_P,
            start_P2=numbers.reshape(size, 2),
            tokens_P2=np.stack([chosen_P, rejected_P], axis=1),
        )

    return Pairs(parts_of_step, lengths.num_pairs)


@dataclass(frozen=True)
class TypicalStep:
    """What several steps have on a data-parallel rank.

    Args:
        load: the average stream.
        num_streams: of a step.
        stream_tokens: of every stream, with filling.
        most_continuations: of a stream.
        tokens_per_step: of all ranks, without filling.
    """

    load: StreamLoad
    num_streams: int
    stream_tokens: Ints
    most_continuations: int
    tokens_per_step: float


def typical_step(settings: Settings, pairs: Pairs, num_steps: int, hidden_size: int) -> TypicalStep:
    """Look at the first steps.

    Args:
        settings: with the layout.
        pairs: of the data.
        num_steps: to look at.
        hidden_size: width of the model.
    """
    steps = [streams_of_step(settings, pairs, step, hidden_size) for step in range(num_steps)]
    loads = [load for ranks in steps for streams in ranks for load in streams]
    stream_tokens = np.array([load.rows.tokens for load in loads])
    continuations = np.array([load.rows.continuations for load in loads])
    model = settings.model
    multiple = model.context_parallel_size * model.tensor_model_parallel_size
    tokens = max(1, round(stream_tokens.mean() / multiple)) * multiple
    rows = StreamRows(
        tokens, round(continuations.mean()), -(-round(continuations.mean()) // model.context_parallel_size)
    )
    num_tokens = sum(load.num_tokens for load in loads)
    attended = sum(load.num_attended for load in loads)
    return TypicalStep(
        load=StreamLoad(rows, num_tokens // len(loads), attended // len(loads)),
        num_streams=len(steps[0][0]),
        stream_tokens=stream_tokens,
        most_continuations=int(continuations.max()),
        tokens_per_step=num_tokens / num_steps,
    )


def streams_of_step(settings: Settings, pairs: Pairs, step: int, hidden_size: int) -> list[list[StreamLoad]]:
    """Streams of each data-parallel rank.

    Args:
        settings: with the layout.
        pairs: of the data.
        step: from 0.
        hidden_size: width of the model.
    """
    plan = plan_step(settings, pairs.parts_of_step(step), hidden_size)
    context_ranks = settings.model.context_parallel_size
    ranks = []
    for rank, streams in enumerate(plan.ranks):
        loads = []
        for stream, length in zip(streams, plan.lengths(rank), strict=True):
            continuations = int(plan.sizes.continuations[stream].sum())
            rows = StreamRows(length, continuations, -(-continuations // context_ranks))
            tokens, attended = (int(values[stream].sum()) for values in (plan.sizes.tokens, plan.sizes.attended))
            loads.append(StreamLoad(rows, tokens, attended))
        ranks.append(loads)
    return ranks

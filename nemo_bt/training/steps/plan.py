"""The plan of one optimizer step: which pairs each rank computes in which stream, and how long streams are.

It is a pure function of the settings and the step's pairs; training and the planner read the same one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from nemo_bt.batching.context_shards import stream_multiple
from nemo_bt.batching.packing import PairParts, PairSizes, Streams, group_pairs, plan_streams
from nemo_bt.batching.shuffle import Ints
from nemo_bt.batching.stream import PairStream, TokenGroup, build_stream
from nemo_bt.config.fp8 import row_multiple
from nemo_bt.config.job import ParallelSettings
from nemo_bt.config.model import Settings
from nemo_bt.data.store.pair_set import PairSet

_MOST_EVEN = 128


@dataclass(frozen=True)
class StepPlan:
    """The streams of one step.

    Args:
        groups: positions, in the step's list of pairs, of the pairs that are computed together.
        sizes: sizes of the groups.
        ranks: the streams of each data-parallel rank, as lists of groups.
        multiple_of: tokens of which every stream is a multiple.
        is_one_length: whether a rank fills its streams up to the longest, as pipelines ask.
    """

    groups: Streams
    sizes: PairSizes
    ranks: list[Streams]
    multiple_of: int
    is_one_length: bool

    def lengths(self, rank: int) -> list[int]:
        """Count the tokens of each stream of a rank, with padding."""
        tokens = [int(self.sizes.tokens[stream].sum()) for stream in self.ranks[rank]]
        filled = [max(1, -(-number // self.multiple_of)) * self.multiple_of for number in tokens]
        return [max(filled)] * len(filled) if self.is_one_length else filled


def plan_step(settings: Settings, parts: PairParts, hidden_size: int) -> StepPlan:
    """Plan a step, whose pairs have these parts."""
    model = settings.model
    budget = model.data.tokens_per_micro_batch
    groups, sizes = group_pairs(parts, budget, hidden_size)
    rules = step_rules(settings)
    ranks = plan_streams(sizes, budget, settings.data_parallel_size, rules.streams_multiple_of)
    return StepPlan(groups, sizes, ranks, rules.tokens_multiple_of, rules.is_one_length)


def build_streams(
    plan: StepPlan, pairs: PairSet, numbers: Ints, rank: int, pad_id: int, swapped: bool = False
) -> list[PairStream]:
    """Build the streams of one data-parallel rank.

    Args:
        numbers: the step's pairs, by their numbers in the set, [P].
        rank: number of the rank among the data-parallel ones.
        pad_id: token that fills streams.
        swapped: whether the continuations of each group stand in the opposite order, which changes no reward.
    """
    streams = []
    for stream, length in zip(plan.ranks[rank], plan.lengths(rank), strict=True):
        groups = pairs.groups(numbers[[pair for group in stream for pair in plan.groups[group]]])
        groups = [_swapped(group) for group in groups] if swapped else groups
        streams.append(build_stream(groups, pad_id, length, len(pairs.sources)))
    return streams


def _swapped(group: TokenGroup) -> TokenGroup:
    last = len(group.continuations) - 1
    comparisons = tuple(one._replace(sides=tuple(last - side for side in one.sides)) for one in group.comparisons)
    return replace(group, continuations=group.continuations[::-1], comparisons=comparisons)


def step_rules(settings: Settings) -> LayoutRules:
    """Derive the rules of a run's steps: those of its layout and, for a GPU, of few different lengths.

    Memory of streams that all differ in length is hardly ever used again by another. So lengths are multiples of the
    largest power of two up to 128 which is at most 1 % of the budget: of 6,144 tokens 32.
    """
    model = settings.model
    rules = layout_rules(model, row_multiple(model))
    if settings.trainer.accelerator == "cpu":
        return rules
    hundredth = max(1, model.data.tokens_per_micro_batch // 100)
    few_lengths = min(_MOST_EVEN, 2 ** (hundredth.bit_length() - 1))
    return rules._replace(tokens_multiple_of=math.lcm(rules.tokens_multiple_of, few_lengths))


class LayoutRules(NamedTuple):
    """What a layout asks of the streams of a data-parallel rank.

    Args:
        streams_multiple_of: what divides their number in a step: an interleaved pipeline takes them in groups.
        tokens_multiple_of: what divides the length of each.
        is_one_length: whether all of a step have one length, as the stages of a pipeline receive tensors of one shape.
    """

    streams_multiple_of: int
    tokens_multiple_of: int
    is_one_length: bool


def layout_rules(layout: ParallelSettings, row_multiple: int = 1) -> LayoutRules:
    """Derive the rules from a layout, and from the rows of which FP8 takes multiples."""
    stages = layout.pipeline_model_parallel_size
    is_interleaved = (layout.virtual_pipeline_model_parallel_size or 1) > 1
    num_sharing = layout.tensor_model_parallel_size if layout.sequence_parallel else 1
    multiple_of = stream_multiple(layout.context_parallel_size, num_sharing * row_multiple)
    return LayoutRules(stages if is_interleaved else 1, multiple_of, stages > 1)

"""Rewards of a validation set: as it was validated, with its two sides swapped, and of parts of its conversations.

Shape suffixes: E = entries of the set's epoch, N = distinct pairs or lists, or answers, K = sides of the longest list,
C = continuations of a stream, A = attributes, R = the reward and each attribute; 2 = chosen, rejected.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from nemo_bt.batching.packing import Floats
from nemo_bt.batching.shuffle import Ints
from nemo_bt.config.length import length_limit
from nemo_bt.config.model import Settings
from nemo_bt.data.formats.responses import Side
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.store.records import ATTRIBUTE
from nemo_bt.data.tokenize.chat_template import Renderer
from nemo_bt.observability.terminal import Terminal
from nemo_bt.reporting.conversations import Sides, prompt_only, response_only
from nemo_bt.reporting.robustness import MOST_PAIRS, changed_sides
from nemo_bt.scoring.batch import StreamRules, compute, plan, tokenise
from nemo_bt.training.steps.plan import build_streams, layout_rules, plan_step

if TYPE_CHECKING:
    from nemo_bt.scoring.engine import Engine

_PAIRS_TOGETHER = 4096
_LONG_S = 10.0
"""Time of a part of the work from which a user is told what comes."""


@dataclass(frozen=True)
class SetRewards:
    """Rewards of a validation set; NaN where there is none.

    Args:
        given_E2: rewards as in a validation.
        swapped_E2: rewards with the rejected response before the chosen one in the stream.
        prompt_E2: rewards of the prompts alone.
        response_E2: rewards of the responses alone.
        known_E: whether it is known where the responses start.
        changed_E2: rewards after each change that should not matter, by its name; NaN where it touches nothing.
        attribute_E2A: rewards of each attribute as in a validation; None where the model gives one reward.
    """

    given_E2: Floats
    swapped_E2: Floats
    prompt_E2: Floats
    response_E2: Floats
    known_E: npt.NDArray[np.bool_]
    changed_E2: Mapping[str, Floats] = field(default_factory=dict)
    attribute_E2A: Floats | None = None


@dataclass(frozen=True)
class KnownAnswers:
    """Answers of a set with their attributes, each once for each comparison of the run's loss that it is in.

    Args:
        reward_NA: rewards of the attributes; NaN where there is none.
        value_NA: what the data says of them; NaN where nothing.
        weights: weight of each attribute in the reward, by name.
        error: error of the run's regression: mse or bce.
    """

    reward_NA: Floats
    value_NA: Floats
    weights: Mapping[str, float]
    error: str


def rewards_of(
    engine: Engine,
    pairs: PairSet,
    conversations: Mapping[int, Sides],
    settings: Settings,
    renderer: Renderer,
    terminal: Terminal,
) -> SetRewards:
    """Compute all rewards of a set, on every rank; `conversations` has its pairs by their number in the set."""
    start_s = time.monotonic()
    numbers, entry_E = np.unique(pairs.epoch.all_pairs(), return_inverse=True)
    used = [conversations[number] for number in numbers.tolist()]
    prompts = [[prompt_only(side) for side in sides] for sides in used]
    responses = [[response_only(side) for side in sides] for sides in used]
    given_N2R = side_rewards(engine, pairs, numbers, settings, renderer.pad_id)
    took_s = time.monotonic() - start_s
    if took_s > _LONG_S:
        terminal.line(f"{pairs.name}: as validated, in {took_s:.0f} s; swapped, in parts and changed takes longer")
    return SetRewards(
        given_N2R[entry_E, :, 0],
        side_rewards(engine, pairs, numbers, settings, renderer.pad_id, swapped=True)[entry_E, :, 0],
        part_rewards(engine, prompts, settings, renderer)[entry_E],
        part_rewards(engine, responses, settings, renderer)[entry_E],
        np.array([None not in sides for sides in prompts])[entry_E],
        {name: changed_N2[entry_E] for name, changed_N2 in _changed(engine, used, settings, renderer).items()},
        given_N2R[entry_E, :, 1:] if engine.attributes else None,
    )


def _changed(engine: Engine, used: Sequence[Sides], settings: Settings, renderer: Renderer) -> dict[str, Floats]:
    """Compute the rewards, [N, 2], after each change, of the first pairs that it touches."""
    changed: dict[str, list[Sequence[Side | None]]] = {}
    num_touched = Counter[str]()
    for number, sides in enumerate(used):
        for name, after in changed_sides(sides, {name for name, n in num_touched.items() if n >= MOST_PAIRS}).items():
            changed.setdefault(name, [(None, None)] * len(used))[number] = after
            num_touched[name] += 1
    return {name: part_rewards(engine, parts, settings, renderer) for name, parts in changed.items()}


def side_rewards(
    engine: Engine, pairs: PairSet, numbers: Ints, settings: Settings, pad_id: int, swapped: bool = False
) -> Floats:
    """Compute the reward and the attributes of pairs or lists, [N, K, R], in the streams that a validation has.

    Args:
        numbers: numbers of the pairs in the set, ascending, [N].
        pad_id: token that fills streams.
        swapped: whether the rejected response stands before the chosen one.

    Returns:
        NaN where one has fewer than K sides.
    """
    from megatron.core import parallel_state

    from nemo_bt.scoring.engine import is_counted

    is_there_NK = torch.from_numpy(pairs.sides("tokens", numbers, 0) > 0)
    reward_NKR = torch.zeros(*is_there_NK.shape, 1 + len(engine.attributes), dtype=torch.float32)
    for first in range(0, len(numbers), _PAIRS_TOGETHER):
        together = numbers[first : first + _PAIRS_TOGETHER]
        step = plan_step(settings, pairs.parts(together), engine.hidden_size)
        streams = build_streams(step, pairs, together, parallel_state.get_data_parallel_rank(), pad_id, swapped)
        found = engine.all_rewards(streams)
        if is_counted():
            for stream, reward_CR in zip(streams, found, strict=True):
                row_P = np.searchsorted(numbers, stream.number_P.numpy())
                reward_NKR[row_P, : stream.sides_PK.shape[1]] = reward_CR[stream.sides_PK]
    reward_NKR = engine.sum_of_ranks(reward_NKR).double()
    return np.asarray(torch.where(is_there_NK[:, :, None], reward_NKR, torch.nan).numpy())


def known_answers(engine: Engine, answers: PairSet, settings: Settings, pad_id: int) -> KnownAnswers:
    """Compute the attributes of all answers of a set, on every rank.

    Args:
        answers: the set as the loss of the run takes it.
        settings: settings with that loss.
        pad_id: token that fills streams.
    """
    numbers, entry_E = np.unique(answers.epoch.all_pairs(), return_inverse=True)
    reward_EKA = side_rewards(engine, answers, numbers, settings, pad_id)[entry_E, :, 1:]
    names = [f"{ATTRIBUTE}{number}" for number in range(len(engine.attributes))]
    value_EKA = np.stack([answers.sides(name, numbers, np.nan) for name in names], axis=2)[entry_E].astype(np.float64)
    is_there_EK = answers.sides("tokens", numbers, 0)[entry_E] > 0
    return KnownAnswers(
        reward_EKA[is_there_EK], value_EKA[is_there_EK], engine.attributes, settings.model.loss.regression_error
    )


def part_rewards(
    engine: Engine, parts: Sequence[Sequence[Side | None]], settings: Settings, renderer: Renderer
) -> Floats:
    """Compute the rewards of parts of conversations, [N, 2], packed as `nemo-bt score` packs them.

    There are two parts of each pair, and None where nobody knows a part.
    """
    model = settings.model
    reward_N2 = np.full((len(parts), 2), np.nan)
    rules = StreamRules(
        model.data.tokens_per_micro_batch,
        layout_rules(model).tokens_multiple_of,
        settings.data_parallel_size,
        engine.hidden_size,
    )
    limit = length_limit(model.encoder_seq_length, model.max_position_embeddings)
    whole = [number for number, sides in enumerate(parts) if None not in sides]
    for first in range(0, len(whole), _PAIRS_TOGETHER):
        together = whole[first : first + _PAIRS_TOGETHER]
        sides = [[side for side in parts[number] if side is not None] for number in together]
        tokens = tokenise(sides, renderer, limit)
        found = compute(plan(tokens, rules), engine, renderer.pad_id, rules.multiple_of)
        reward_N2[together] = np.array(found, dtype=np.float64).reshape(-1, 2)  # None becomes NaN
    return reward_N2

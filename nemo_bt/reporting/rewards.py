"""Rewards of a validation set: as it was validated, with its two sides swapped, and of parts of its conversations.

Shape suffixes: E = entries of the set's epoch, N = distinct pairs, C = continuations of a stream; 2 = chosen,
rejected.
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
from nemo_bt.batching.sampling import Ints
from nemo_bt.config.length import length_limit
from nemo_bt.config.model import Settings
from nemo_bt.data.formats.responses import Side
from nemo_bt.data.store.pair_set import PairSet
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
    """

    given_E2: Floats
    swapped_E2: Floats
    prompt_E2: Floats
    response_E2: Floats
    known_E: npt.NDArray[np.bool_]
    changed_E2: Mapping[str, Floats] = field(default_factory=dict)


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
    numbers, entry_E = np.unique(pairs.epoch.pair_E, return_inverse=True)
    used = [conversations[number] for number in numbers.tolist()]
    prompts = [[prompt_only(side) for side in sides] for sides in used]
    responses = [[response_only(side) for side in sides] for sides in used]
    given_N2 = pair_rewards(engine, pairs, numbers, settings, renderer.pad_id, swapped=False)
    took_s = time.monotonic() - start_s
    if took_s > _LONG_S:
        terminal.line(f"{pairs.name}: as validated, in {took_s:.0f} s; swapped, in parts and changed takes longer")
    return SetRewards(
        given_N2[entry_E],
        pair_rewards(engine, pairs, numbers, settings, renderer.pad_id, swapped=True)[entry_E],
        part_rewards(engine, prompts, settings, renderer)[entry_E],
        part_rewards(engine, responses, settings, renderer)[entry_E],
        np.array([None not in sides for sides in prompts])[entry_E],
        {name: changed_N2[entry_E] for name, changed_N2 in _changed(engine, used, settings, renderer).items()},
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


def pair_rewards(
    engine: Engine, pairs: PairSet, numbers: Ints, settings: Settings, pad_id: int, swapped: bool
) -> Floats:
    """Compute the rewards of pairs, [N, 2], in the streams that a validation has.

    Args:
        numbers: numbers of the pairs in the set, ascending, [N].
        pad_id: token that fills streams.
        swapped: whether the rejected response stands before the chosen one.
    """
    from megatron.core import parallel_state

    from nemo_bt.scoring.engine import is_counted

    reward_N2 = torch.zeros(len(numbers), 2, dtype=torch.float32)
    for first in range(0, len(numbers), _PAIRS_TOGETHER):
        together = numbers[first : first + _PAIRS_TOGETHER]
        step = plan_step(settings, pairs.parts(together), engine.hidden_size)
        streams = build_streams(step, pairs, together, parallel_state.get_data_parallel_rank(), pad_id, swapped)
        found = engine.rewards(streams)
        if is_counted():
            for stream, reward_C in zip(streams, found, strict=True):
                reward_N2[np.searchsorted(numbers, stream.number_P.numpy())] = reward_C[stream.sides_PK]
    return np.asarray(engine.sum_of_ranks(reward_N2).double().numpy())


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

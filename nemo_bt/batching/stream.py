"""The pair stream: a micro-batch as one run of tokens, each prompt once, no padding between sequences.

A group is one prefix and continuations of it, laid out `prefix | continuation 1 | continuation 2 | ...`. A comparison
names those that the loss sees together: two for a pair, K for a list; a continuation may be in several. Every
continuation starts at position len(prefix) and attends to the prefix and to itself, so it is computed exactly as if it
stood alone behind the prompt.

Shape suffixes: T = tokens in the stream, C = continuations, P = comparisons, K = sides of the longest of them,
A = attributes. Pure torch and numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids: TypeAlias = npt.NDArray[np.int32]
"""Token ids, [n]."""


class Comparison(NamedTuple):
    """Continuations of a group that the loss sees together.

    Args:
        sides: positions among the continuations, at least one; of a pair the chosen and the rejected one, of a list the
            best first.
        scores: what is known of each side, higher is better; none where the rows only say which is chosen.
        margin: strength of the preference.
        preference: probability that the first of a pair is better.
        weight: factor on its loss.
        source: number of the source of data that it comes from.
        number: the comparison's own in its set.
        attributes: a value of each attribute for each side, NaN where it is not known; none where there are none.
    """

    sides: tuple[int, ...] = (0, 1)
    scores: tuple[float, ...] = ()
    margin: float = 0.0
    preference: float = 1.0
    weight: float = 1.0
    source: int = 0
    number: int = 0
    attributes: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class TokenGroup:
    """One prefix and the continuations that share it.

    Args:
        prefix: [n]; plain packing has an empty one.
        continuations: K arrays of at least one token each; a continuation is scored at its last token.
        comparisons: what the loss sees of them; none where they are only scored.
    """

    prefix: Ids
    continuations: tuple[Ids, ...]
    comparisons: tuple[Comparison, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens the group takes in a stream, the prefix counted once."""
        return len(self.prefix) + sum(len(c) for c in self.continuations)


@dataclass(frozen=True)
class PairStream:
    """One micro-batch.

    Args:
        tokens_1T: token ids, [1, T], int64.
        positions_1T: position of each token in its own sequence, [1, T], int64.
        segments_C5: (prefix start, prefix end, start, end, comparisons) of each continuation in the stream, [C, 5],
            int32, on the CPU: which attention calls to make, and in how many comparisons the continuation is. A
            continuation with start == prefix end is the first of its group and answers for the prefix's own rows too.
            Its last token is the scored one.
        sides_PK: continuations of each comparison, [P, K], int64; -1 where it has fewer than K. Pairs have K = 2.
        score_PK: what is known of each side, [P, K], float32; NaN where nothing is.
        margin_P: [P], float32.
        preference_P: probability that the first side is better, [P], float32; None where all are certain.
        weight_P: [P], float32.
        source_P: [P], int64.
        number_P: number of each comparison in its set, [P], int64, on the CPU.
        num_real_tokens: tokens that belong to a group; the rest of T is padding.
        num_sources: sources of data that its set has.
        tokens_PK: tokens of each side with its prefix, [P, K], float32; 0 where it has fewer than K.
        attribute_PKA: values of the attributes, [P, K, A], float32; NaN where one is not known. None without any.
        is_plain: whether all are pairs whose first side is the better one, without a tie or a doubt.
        is_ragged: whether one has fewer than K sides.
    """

    tokens_1T: Tensor
    positions_1T: Tensor
    segments_C5: Tensor
    sides_PK: Tensor
    score_PK: Tensor
    margin_P: Tensor
    preference_P: Tensor | None
    weight_P: Tensor
    source_P: Tensor
    number_P: Tensor
    tokens_PK: Tensor
    num_real_tokens: int
    num_sources: int = 1
    attribute_PKA: Tensor | None = None
    is_plain: bool = True
    is_ragged: bool = False

    @property
    def num_comparisons(self) -> int:
        """Comparisons in the stream."""
        return len(self.margin_P)

    def to(self, device: torch.device) -> PairStream:
        """Give the stream with its tensors on `device`; segments and numbers stay where they are."""
        on_host = ("segments_C5", "number_P")
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in on_host}
        moved: dict[str, Any] = {
            n: to_device(value, device) for n, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy `x` from the CPU to `device`. The host does not wait for a GPU: it would if the memory could move."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def shared_prefix(chosen: Ids, rejected: Ids) -> int:
    """Measure, in tokens, the longest common start that leaves both sequences one token to be scored at.

    [1, 2, 3, 4] and [1, 2, 5] share 2; [1, 2] and [1, 2, 3] share 1.
    """
    longest = min(len(chosen), len(rejected)) - 1
    differs = np.flatnonzero(chosen[:longest] != rejected[:longest])
    return int(differs[0]) if len(differs) else longest


def build_stream(groups: Sequence[TokenGroup], pad_id: int, multiple_of: int = 1, num_sources: int = 1) -> PairStream:
    """Lay groups out as one stream.

    Args:
        groups: laid out in order; none give a stream of padding, worth nothing, for a rank that has none left.
        pad_id: token that fills the end; filled positions belong to no segment and change no reward.
        multiple_of: T is rounded up to a multiple of this, so that ranks can share it.
        num_sources: sources of data that the set has.
    """
    tokens: list[Ids] = []
    positions: list[Ids] = []
    segments: list[tuple[int, int, int, int]] = []
    comparisons: list[Comparison] = []
    end = 0
    for group in groups:
        prefix_start = end
        prefix_end = end + len(group.prefix)
        tokens.append(group.prefix)
        positions.append(np.arange(len(group.prefix)))
        end = prefix_end
        first = len(segments)
        comparisons += [one._replace(sides=tuple(first + side for side in one.sides)) for one in group.comparisons]
        for continuation in group.continuations:
            start = end
            end += len(continuation)
            tokens.append(continuation)
            positions.append(np.arange(len(group.prefix), len(group.prefix) + len(continuation)))
            segments.append((prefix_start, prefix_end, start, end))
    num_filling = -end % multiple_of if end else multiple_of
    tokens.append(np.full(num_filling, pad_id, dtype=np.int32))
    positions.append(np.zeros(num_filling, dtype=np.int32))
    num_uses_C = np.bincount([side for one in comparisons for side in one.sides], minlength=len(segments))
    segments_C5 = torch.tensor(
        [(*segment, n) for segment, n in zip(segments, num_uses_C.tolist(), strict=True)], dtype=torch.int32
    ).reshape(-1, 5)
    most = max((len(one.sides) for one in comparisons), default=2)
    sides = [one.sides + (-1,) * (most - len(one.sides)) for one in comparisons]
    lengths = [prefix_end - prefix_start + end - start for prefix_start, prefix_end, start, end in segments] + [0]
    scores = [one.scores + (math.nan,) * (most - len(one.scores)) for one in comparisons]
    preference_P = torch.tensor([one.preference for one in comparisons], dtype=torch.float32)
    return PairStream(
        tokens_1T=torch.from_numpy(np.concatenate(tokens).astype(np.int64))[None],
        positions_1T=torch.from_numpy(np.concatenate(positions).astype(np.int64))[None],
        segments_C5=segments_C5,
        sides_PK=torch.tensor(sides, dtype=torch.int64).reshape(-1, most),
        score_PK=torch.tensor(scores, dtype=torch.float32).reshape(-1, most),
        margin_P=torch.tensor([one.margin for one in comparisons], dtype=torch.float32),
        preference_P=None if (preference_P == 1).all() else preference_P,
        weight_P=torch.tensor([one.weight for one in comparisons], dtype=torch.float32),
        source_P=torch.tensor([one.source for one in comparisons], dtype=torch.int64),
        number_P=torch.tensor([one.number for one in comparisons], dtype=torch.int64),
        tokens_PK=torch.tensor([[lengths[side] for side in of] for of in sides], dtype=torch.float32).reshape(-1, most),
        num_real_tokens=end,
        num_sources=num_sources,
        attribute_PKA=_attributes(comparisons, most),
        is_plain=all(map(_is_plain, comparisons)),
        is_ragged=any(len(one.sides) < most for one in comparisons),
    )


def _is_plain(one: Comparison) -> bool:
    is_tied = len(one.scores) == 2 and one.scores[0] <= one.scores[1]  # no NaN is
    return len(one.sides) == 2 and one.preference == 1 and not is_tied


def _attributes(comparisons: Sequence[Comparison], most: int) -> Tensor | None:
    """Give the values of attributes, [P, K, A]; None where no comparison has any."""
    num_attributes = max((len(values) for one in comparisons for values in one.attributes), default=0)
    if not num_attributes:
        return None
    unknown = ((math.nan,) * num_attributes,)
    values = [one.attributes + unknown * (most - len(one.attributes)) for one in comparisons]
    return torch.tensor(values, dtype=torch.float32)

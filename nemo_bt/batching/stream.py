"""The pair stream: a micro-batch as one run of tokens, each prompt once, no padding between sequences.

A group is one prefix and K continuations, laid out `prefix | continuation 1 | ... | continuation K`. A preference
pair names two of them; a group of K can hold up to K (K - 1) / 2. Every continuation starts at position len(prefix)
and attends to the prefix and to itself, so it is computed exactly as if it stood alone behind the prompt.

Shape suffixes: T = tokens in the stream, C = continuations, P = pairs. Pure torch and numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids: TypeAlias = npt.NDArray[np.int32]
"""Token ids, [n]."""


class Pair(NamedTuple):
    """A preference between two continuations of a group.

    Args:
        chosen: position among the continuations.
        rejected: position among the continuations.
        margin: strength of the preference.
        weight: factor on its loss.
        source: number of the source of data that it comes from.
        number: the pair's own in its set.
    """

    chosen: int = 0
    rejected: int = 1
    margin: float = 0.0
    weight: float = 1.0
    source: int = 0
    number: int = 0


@dataclass(frozen=True)
class TokenGroup:
    """One prefix and the continuations that share it.

    Args:
        prefix: [n]; plain packing has an empty one.
        continuations: K arrays of at least one token each; a continuation is scored at its last token.
        pairs: preferences between them; none where they are only scored.
    """

    prefix: Ids
    continuations: tuple[Ids, ...]
    pairs: tuple[Pair, ...] = ()

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
        segments_C5: (prefix start, prefix end, start, end, pairs) of each continuation in the stream, [C, 5], int32, on
            the CPU: which attention calls to make, and in how many pairs the continuation is. A continuation with
            start == prefix end is the first of its group and answers for the prefix's own rows too. Its last token is
            the scored one.
        pairs_P2: chosen and rejected continuation of each pair, [P, 2], int64.
        margin_P: [P], float32.
        weight_P: [P], float32.
        source_P: [P], int64.
        number_P: number of each pair in its set, [P], int64, on the CPU.
        num_real_tokens: tokens that belong to a group; the rest of T is padding.
        num_sources: sources of data that its set has.
    """

    tokens_1T: Tensor
    positions_1T: Tensor
    segments_C5: Tensor
    pairs_P2: Tensor
    margin_P: Tensor
    weight_P: Tensor
    source_P: Tensor
    number_P: Tensor
    num_real_tokens: int
    num_sources: int = 1

    @property
    def num_pairs(self) -> int:
        """Preference pairs in the stream."""
        return len(self.margin_P)

    def to(self, device: torch.device) -> PairStream:
        """Give the stream with its tensors on `device`; segments and numbers stay where they are."""
        return replace(
            self,
            tokens_1T=to_device(self.tokens_1T, device),
            positions_1T=to_device(self.positions_1T, device),
            pairs_P2=to_device(self.pairs_P2, device),
            margin_P=to_device(self.margin_P, device),
            weight_P=to_device(self.weight_P, device),
            source_P=to_device(self.source_P, device),
        )


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
        groups: laid out in order; none give a stream of padding, worth nothing, for a rank that has no pair left.
        pad_id: token that fills the end; filled positions belong to no segment and change no reward.
        multiple_of: T is rounded up to a multiple of this, so that ranks can share it.
        num_sources: sources of data that the pairs' set has.
    """
    tokens: list[Ids] = []
    positions: list[Ids] = []
    segments: list[tuple[int, int, int, int]] = []
    pairs: list[Pair] = []
    end = 0
    for group in groups:
        prefix_start = end
        prefix_end = end + len(group.prefix)
        tokens.append(group.prefix)
        positions.append(np.arange(len(group.prefix)))
        end = prefix_end
        first = len(segments)
        pairs += [pair._replace(chosen=first + pair.chosen, rejected=first + pair.rejected) for pair in group.pairs]
        for continuation in group.continuations:
            start = end
            end += len(continuation)
            tokens.append(continuation)
            positions.append(np.arange(len(group.prefix), len(group.prefix) + len(continuation)))
            segments.append((prefix_start, prefix_end, start, end))
    num_filling = -end % multiple_of if end else multiple_of
    tokens.append(np.full(num_filling, pad_id, dtype=np.int32))
    positions.append(np.zeros(num_filling, dtype=np.int32))
    num_pairs_C = np.bincount([side for pair in pairs for side in pair[:2]], minlength=len(segments))
    segments_C5 = torch.tensor(
        [(*segment, n) for segment, n in zip(segments, num_pairs_C.tolist(), strict=True)], dtype=torch.int32
    ).reshape(-1, 5)
    return PairStream(
        tokens_1T=torch.from_numpy(np.concatenate(tokens).astype(np.int64))[None],
        positions_1T=torch.from_numpy(np.concatenate(positions).astype(np.int64))[None],
        segments_C5=segments_C5,
        pairs_P2=torch.tensor([pair[:2] for pair in pairs], dtype=torch.int64).reshape(-1, 2),
        margin_P=torch.tensor([pair.margin for pair in pairs], dtype=torch.float32),
        weight_P=torch.tensor([pair.weight for pair in pairs], dtype=torch.float32),
        source_P=torch.tensor([pair.source for pair in pairs], dtype=torch.int64),
        number_P=torch.tensor([pair.number for pair in pairs], dtype=torch.int64),
        num_real_tokens=end,
        num_sources=num_sources,
    )

"""Comparisons as they are stored: tokens by prompt, each prompt and response once, and columns that point into them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nemo_bt.batching.stream import Ids, shared_prefix
from nemo_bt.data.read.drop_report import DropReport

COLUMNS: dict[str, Any] = {
    "prompt": np.int64, "prefix_start": np.int64, "prefix_tokens": np.int32, "first_side": np.int64,
    "num_sides": np.int32, "margin": np.float32, "preference": np.float32, "weight": np.float32, "file": np.int32,
    "row": np.int64, "is_longer": np.uint8,
}  # fmt: skip
"""What is stored of each pair or list. `prompt` counts prompts; those of one have the same prefix, and share responses.
`is_longer`: the first response has more characters than the last."""
SIDES: dict[str, Any] = {"start": np.int64, "tokens": np.int32, "hash": np.uint64, "score": np.float32}
"""What is stored of each side of a pair or list, in their order: where its response lies, a hash of the whole
conversation's ids, and its score, NaN where it has none. Behind them stands a column for each attribute."""
ATTRIBUTE = "attribute_"


def side_columns(num_attributes: int) -> dict[str, Any]:
    """Give SIDES with the columns of so many attributes."""
    return SIDES | {f"{ATTRIBUTE}{number}": np.float32 for number in range(num_attributes)}


def tokens_of_pairs(prefix_tokens_N: Any, first_side_N: Any, tokens_S: Any) -> Any:
    """Count the tokens of pairs or lists that follow each other: prefix and responses, [N], int64.

    Args:
        tokens_S: of the sides from the first pair's first to the last pair's last, [S].
    """
    if not len(first_side_N):
        return np.empty(0, dtype=np.int64)
    return prefix_tokens_N + np.add.reduceat(tokens_S, first_side_N - first_side_N[0], dtype=np.int64)


class Facts(NamedTuple):
    """A pair or list of one prompt: positions of its sides, and what is stored beside its tokens."""

    sides: tuple[int, ...]
    row: int
    is_longer: bool
    margin: float = 0.0
    preference: float = 1.0
    weight: float = 1.0
    scores: tuple[float, ...] = ()
    attributes: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Encoded:
    """What became of a chunk of rows.

    Args:
        tokens: prefix and responses of each prompt in turn, [T], int32.
        columns: COLUMNS, [N] each; starts count from the chunk's first token, prompts and sides from its first.
        sides: SIDES, and attributes.
        num_prompts: prompts with at least one pair.
    """

    tokens: Ids
    columns: dict[str, Any]
    sides: dict[str, Any]
    num_prompts: int
    drop_report: DropReport


@dataclass
class Layout:
    """Tokens and columns, which grow prompt by prompt.

    Args:
        file: number of the file in its source.
        num_attributes: attributes that sides have.
    """

    file: int
    num_attributes: int = 0
    parts: list[Ids] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    sides: list[tuple[Any, ...]] = field(default_factory=list)
    num_tokens: int = 0
    num_prompts: int = 0

    def add(self, comparisons: Sequence[Facts], sequences: dict[int, Ids]) -> None:
        """Lay out one prompt with the responses that its pairs or lists use.

        Args:
            sequences: position of each side -> ids of the whole conversation.
        """
        if not comparisons:
            return
        used = sorted({side for one in comparisons for side in one.sides})
        cut = common_prefix([sequences[side] for side in used])
        prefix_start = self.num_tokens
        self._append(sequences[used[0]][:cut])
        stored = {}
        for side in used:
            stored[side] = (self.num_tokens, len(sequences[side]) - cut, _hash(sequences[side]))
            self._append(sequences[side][cut:])
        unknown = (math.nan,) * self.num_attributes
        for one in comparisons:
            self.rows.append(
                (
                    *(self.num_prompts, prefix_start, cut, len(self.sides), len(one.sides)),
                    *(one.margin, one.preference, one.weight, self.file, one.row, one.is_longer),
                )
            )
            scores = one.scores or (math.nan,) * len(one.sides)
            attributes = one.attributes or (unknown,) * len(one.sides)
            for side, score, values in zip(one.sides, scores, attributes, strict=True):
                self.sides.append((*stored[side], score, *values))
        self.num_prompts += 1

    def _append(self, ids: Ids) -> None:
        self.parts.append(ids)
        self.num_tokens += len(ids)

    def encoded(self, drop_report: DropReport) -> Encoded:
        """Give everything as arrays; the account gets what was kept."""
        columns = _arrays(self.rows, COLUMNS)
        drop_report.num_kept = len(self.rows)
        drop_report.num_longer_chosen = int(columns["is_longer"].sum())
        tokens = np.concatenate(self.parts) if self.parts else np.empty(0, dtype=np.int32)
        sides = _arrays(self.sides, side_columns(self.num_attributes))
        return Encoded(tokens, columns, sides, self.num_prompts, drop_report)


def _arrays(rows: list[tuple[Any, ...]], kinds: dict[str, Any]) -> dict[str, Any]:
    values = zip(*rows, strict=True) if rows else ([] for _ in kinds)
    return {name: np.array(v, dtype=kinds[name]) for name, v in zip(kinds, values, strict=True)}


def common_prefix(sequences: list[Ids]) -> int:
    """Measure the longest start that all share and that leaves each a token to be scored at."""
    if len(sequences) == 1:
        return len(sequences[0]) - 1
    return min(shared_prefix(sequences[0], other) for other in sequences[1:])


def _hash(ids: Ids) -> int:
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")

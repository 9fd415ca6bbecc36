"""Pairs as they are stored: tokens by prompt, each prompt and response once, and flat columns that point into them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nemo_bt.batching.stream import Ids, shared_prefix
from nemo_bt.data.read.drop_report import DropReport

COLUMNS: dict[str, Any] = {
    "prompt": np.int64, "prefix_start": np.int64, "prefix_tokens": np.int32, "chosen_start": np.int64,
    "chosen_tokens": np.int32, "rejected_start": np.int64, "rejected_tokens": np.int32, "margin": np.float32,
    "weight": np.float32, "file": np.int32, "row": np.int64, "is_longer": np.uint8, "chosen_hash": np.uint64,
    "rejected_hash": np.uint64,
}  # fmt: skip
"""What is stored of each pair. `prompt` counts prompts; pairs of one have the same prefix, and share responses.
`is_longer`: the chosen text has more characters. The hashes are of whole conversations' ids."""


class PairFacts(NamedTuple):
    """A pair of one prompt: positions of its sides, and what is stored beside its tokens."""

    chosen: int
    rejected: int
    margin: float
    weight: float
    row: int
    is_longer: bool


@dataclass(frozen=True)
class Encoded:
    """What became of a chunk of rows.

    Args:
        tokens: prefix and responses of each prompt in turn, [T], int32.
        columns: COLUMNS, [N] each; starts count from the chunk's first token, prompts from its first.
        num_prompts: prompts with at least one pair.
    """

    tokens: Ids
    columns: dict[str, Any]
    num_prompts: int
    drop_report: DropReport


@dataclass
class Layout:
    """Tokens and columns, which grow prompt by prompt.

    Args:
        file: number of the file in its source.
    """

    file: int
    parts: list[Ids] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    num_tokens: int = 0
    num_prompts: int = 0

    def add(self, pairs: Sequence[PairFacts], sequences: dict[int, Ids]) -> None:
        """Lay out one prompt with the responses that its pairs use.

        Args:
            sequences: position of each side -> ids of the whole conversation.
        """
        if not pairs:
            return
        used = sorted({side for pair in pairs for side in pair[:2]})
        cut = common_prefix([sequences[side] for side in used])
        prefix_start = self.num_tokens
        starts = {}
        hashes = {}
        self._append(sequences[used[0]][:cut])
        for side in used:
            starts[side] = self.num_tokens
            hashes[side] = _hash(sequences[side])
            self._append(sequences[side][cut:])
        for pair in pairs:
            sides = [(starts[side], len(sequences[side]) - cut) for side in pair[:2]]
            self.rows.append(
                (
                    *(self.num_prompts, prefix_start, cut, *sides[0], *sides[1]),
                    *(pair.margin, pair.weight, self.file, pair.row, pair.is_longer),
                    *(hashes[pair.chosen], hashes[pair.rejected]),
                )
            )
        self.num_prompts += 1

    def _append(self, ids: Ids) -> None:
        self.parts.append(ids)
        self.num_tokens += len(ids)

    def encoded(self, drop_report: DropReport) -> Encoded:
        """Give everything as arrays; the account gets what was kept."""
        values = zip(*self.rows, strict=True) if self.rows else ([] for _ in COLUMNS)
        columns = {name: np.array(v, dtype=COLUMNS[name]) for name, v in zip(COLUMNS, values, strict=True)}
        drop_report.num_kept = len(self.rows)
        drop_report.num_longer_chosen = int(columns["is_longer"].sum())
        tokens = np.concatenate(self.parts) if self.parts else np.empty(0, dtype=np.int32)
        return Encoded(tokens, columns, self.num_prompts, drop_report)


def common_prefix(sequences: list[Ids]) -> int:
    """Measure the longest start that all share and that leaves each a token to be scored at."""
    return min(shared_prefix(sequences[0], other) for other in sequences[1:])


def _hash(ids: Ids) -> int:
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")

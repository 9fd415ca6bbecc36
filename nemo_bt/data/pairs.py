"""Rows -> PairTable: all pairs of a data set as flat arrays of token ids, and the account of what was dropped.

Shape suffix: N = pairs in the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_bt.data.rows import Columns, Row, find_files, read_rows, response_of
from nemo_bt.data.tokenizer import tokenize
from nemo_bt.errors import UserError
from nemo_bt.packing import Ints, PairSizes, pair_cost
from nemo_bt.settings import DataSettings
from nemo_bt.stream import Group, Ids, shared_prefix


@dataclass(frozen=True)
class PairTable:
    """Tokenised pairs, compact and random-access.

    Args:
        tokens: every pair's `prefix | chosen | rejected` end to end, int32.
        bounds_N4: start, prefix end, chosen end, end of each pair in `tokens`, [N, 4], int64.
        margin_N: [N], float32.
    """

    tokens: Ids
    bounds_N4: Ints
    margin_N: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.bounds_N4)

    def group(self, pair: int) -> Group:
        """One pair, ready for a stream."""
        start, prefix_end, chosen_end, end = self.bounds_N4[pair]
        continuations = (self.tokens[prefix_end:chosen_end], self.tokens[chosen_end:end])
        return Group(self.tokens[start:prefix_end], continuations, float(self.margin_N[pair]))

    def sizes(self, pairs: Sequence[int], hidden_size: int) -> PairSizes:
        """Tokens and compute of the given pairs."""
        prefix, chosen, rejected = np.diff(self.bounds_N4[np.asarray(pairs, dtype=np.int64)], axis=1).T
        return PairSizes(prefix + chosen + rejected, pair_cost(prefix, chosen, rejected, hidden_size))


@dataclass
class LoadReport:
    """What became of the rows of one data set.

    Attributes:
        num_longer_chosen: kept pairs whose chosen response has more characters: what the rule "the longer answer
            wins" gets right.
        dropped: rows left out, by reason.
    """

    name: str
    num_rows: int = 0
    num_longer_chosen: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def num_kept(self) -> int:
        """Rows that became pairs."""
        return self.num_rows - sum(self.dropped.values())

    def __str__(self) -> str:
        reasons = "".join(f"; dropped {count} {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{self.name}: {self.num_kept:,} of {self.num_rows:,} pairs{reasons}"


def load_pairs(
    name: str,
    patterns: Sequence[str],
    settings: DataSettings,
    max_length: int,
    tokenizer: Any,
    needs_margin: bool,
) -> tuple[PairTable, LoadReport]:
    """Read, tokenise and check every pair of a data set.

    Args:
        name: of the set, for messages: train, or a validation set's.
        patterns: parquet files or globs.
        settings: columns, budget and what to do with bad pairs.
        max_length: longest prompt + response, tokens.
        tokenizer: from `load_tokenizer`.
        needs_margin: whether to read the margin column.

    Raises:
        UserError: a structural mistake (see `read_rows`); a pair that cannot be trained on, under
            `on_bad_pair=error`; more than `max_drop_fraction` of a file dropped; nothing left.
    """
    report = LoadReport(name)
    columns = Columns(settings.chosen_key, settings.rejected_key, settings.margin_key if needs_margin else None)
    groups: list[Group] = []
    for file in find_files(patterns, f"model.data {name}"):
        in_file = LoadReport(file)
        groups += _groups_of(file, columns, settings, max_length, tokenizer, in_file)
        _check_drops(in_file, settings.max_drop_fraction)
        report.num_rows += in_file.num_rows
        report.num_longer_chosen += in_file.num_longer_chosen
        report.dropped += in_file.dropped
    return _as_table(groups), report


def _groups_of(
    file: str, columns: Columns, settings: DataSettings, max_length: int, tokenizer: Any, report: LoadReport
) -> Iterator[Group]:
    rows = read_rows(file, columns)
    while chunk := list(islice(rows, 1024)):
        ids = tokenize(tokenizer, [side for row in chunk for side in (row.chosen, row.rejected)])
        for row, chosen, rejected in zip(chunk, ids[0::2], ids[1::2], strict=True):
            report.num_rows += 1
            reason, found = _unusable(row, chosen, rejected, settings.tokens_per_micro_batch, max_length)
            if not reason:
                cut = shared_prefix(chosen, rejected)
                report.num_longer_chosen += len(response_of(row.chosen)) > len(response_of(row.rejected))
                yield Group(chosen[:cut], (chosen[cut:], rejected[cut:]), row.margin)
            elif settings.on_bad_pair == "error":
                raise UserError(
                    f"{file} row {row.number} columns '{columns.chosen}', '{columns.rejected}': {reason}{found}. "
                    "Mend or remove the row, or set model.data.on_bad_pair=drop to leave such rows out."
                )
            else:
                report.dropped[reason] += 1


def _unusable(row: Row, chosen: Ids, rejected: Ids, budget_tokens: int, max_length: int) -> tuple[str, str]:
    """Why a pair cannot be trained on, "" if it can, and what was found in this row."""
    if row.chosen == row.rejected or np.array_equal(chosen, rejected):
        return "with chosen equal to rejected", ""
    if not response_of(row.chosen).strip() or not response_of(row.rejected).strip():
        return "with an empty response", ""
    longest, num_tokens = max(len(chosen), len(rejected)), len(chosen) + len(rejected) - shared_prefix(chosen, rejected)
    if longest > max_length:
        return f"longer than model.encoder_seq_length={max_length} tokens", f", found {longest}"
    if num_tokens > budget_tokens:
        return f"longer than model.data.tokens_per_micro_batch={budget_tokens}", f", found {num_tokens}"
    return "", ""


def _check_drops(report: LoadReport, max_drop_fraction: float) -> None:
    dropped = sum(report.dropped.values())
    if report.num_kept == 0:
        raise UserError(f"{report}. Nothing is left to train on: mend the data, or raise the limit named above.")
    if dropped > max_drop_fraction * report.num_rows:
        raise UserError(
            f"{report}. Expected at most model.data.max_drop_fraction={max_drop_fraction:g} of a file to be dropped, "
            f"found {dropped / report.num_rows:.3g}. Mend the data, or raise the limit named above."
        )


def _as_table(groups: list[Group]) -> PairTable:
    parts = [part for group in groups for part in (group.prefix, *group.continuations)]
    lengths_N3 = np.array([len(part) for part in parts], dtype=np.int64).reshape(-1, 3)
    ends = lengths_N3.cumsum().reshape(-1, 3)
    starts = ends[:, :1] - lengths_N3[:, :1]
    return PairTable(
        tokens=np.concatenate(parts).astype(np.int32),
        bounds_N4=np.concatenate([starts, ends], axis=1),
        margin_N=np.array([group.margin for group in groups], dtype=np.float32),
    )

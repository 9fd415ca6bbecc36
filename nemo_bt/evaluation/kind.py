"""Rows -> the benchmark that they belong to, by what it alone has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nemo_bt.errors import UserError
from nemo_bt.evaluation import judgebench, rewardbench, rewardbench2, rm_bench, rmb
from nemo_bt.evaluation.accuracy import Scored


def kind_of(rows: Sequence[Scored]) -> str:
    """Tell which benchmark rows belong to by what it alone has; pairs where they belong to none.

    Raises:
        UserError: rows have several answers on a side, as two benchmarks have, and nothing else tells which it is; or
            some rows are a benchmark's, and others are not.
    """
    if _are_all(rows, "category_path", "RMB", rmb.is_path):
        return "rmb"
    if _are_all(rows, "source", "JudgeBench", lambda source: source.startswith(judgebench.CATEGORIES)):
        return "judgebench"
    if all(len(row.chosen) == len(row.rejected) == 1 for row in rows):
        name = subset_column(rows)
        return "rewardbench" if _are_all(rows, name, "RewardBench", rewardbench.SUBSETS.__contains__) else "pairs"
    if all("num_correct" in row.names for row in rows):
        return "rewardbench2"
    if all(len(row.chosen) == len(row.rejected) == rm_bench.STYLES for row in rows):
        return "rm_bench"
    subsets = {row.names.get("subset", "").lower() for row in rows}
    if subsets <= {subset.lower() for subset in rewardbench2.SUBSETS}:
        return "rewardbench2"
    counts = sorted({(len(row.chosen), len(row.rejected)) for row in rows})
    raise UserError(
        f"rows have {' or '.join(f'{right} right and {wrong} wrong' for right, wrong in counts[:3])} answers. "
        "RewardBench 2 has a column num_correct, RM-Bench three of each. Set evaluate.kind to rewardbench2 or "
        "rm_bench, or to pairs for every right answer with every wrong one."
    )


def subset_column(rows: Sequence[Scored]) -> str:
    """Name the column with RewardBench's subsets: M-RewardBench calls it source."""
    is_of_languages = all("language" in row.names and "subset" not in row.names for row in rows)
    return "source" if is_of_languages else "subset"


def _are_all(rows: Sequence[Scored], column: str, whose: str, is_one: Callable[[str], bool]) -> bool:
    """Tell whether all rows, or none, are a benchmark's by a column.

    Raises:
        UserError: some are.
    """
    values = {row.names.get(column, "none") for row in rows}
    own = {value for value in values if is_one(value)}
    others = sorted(values - own)
    if own and others:
        raise UserError(
            f"{len(own)} values of {column} are {whose}'s, {', '.join(others[:5])} "
            f"{'is' if len(others) == 1 else 'are'} not. Take other rows out, or set evaluate.kind=pairs."
        )
    return bool(own)

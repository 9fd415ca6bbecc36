"""Packing in numbers: how full streams are, how evenly ranks are loaded, and how long it takes to plan a step.

python -m benchmarks.packing --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet

A step of n full streams and a rest needs n + 1, and each rank the same number, so efficiency has a bound below 1, which
is given too. Where ranks outnumber full streams, every rank gets one stream that is no longer than its pairs, so the
rest of the budget costs nothing. No rank can cost less than the dearest pair, so the least imbalance that the pairs of
a step allow is given too.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.small_llama import SMALL
from nemo_bt.batching.packing import PairSizes, Streams, group_pairs, plan_streams
from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.data.store.pair_set import PairSet

_BUDGET_TOKENS = 8192
_BATCHES = (64, 256, 512, 1024, 4096)
_RANKS = (1, 8, 64, 512)
_STEPS = 20
_EFFICIENCY_TARGET = 0.98
_IMBALANCE_TARGET = 1.03
_PLANNING_TARGET_MS = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/packing"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    small_llama.make_tokenizer(args.data, args.folder / "tokenizer")
    small_llama.make_model(SMALL, args.folder / "tokenizer", args.folder / "model", seed=1)
    figures = []
    for data in ("hh", "alpaca_eval"):
        file = args.data / f"{data}_train.parquet"
        overrides = small_llama.training_overrides(args.folder / "model", file, args.folder / "run", 1, seed=1)
        pairs = small_llama.open_pairs(overrides, args.folder / "model")
        for batch in _BATCHES:
            if batch <= len(pairs.epoch):
                figures += _figures(f"packing/{data}/{batch}_pairs", pairs, batch)
    print(f"wrote {write_results('packing', args.host_kind, 'python -m benchmarks.packing --data data', figures)}")


def _figures(start: str, pairs: PairSet, batch: int) -> list[Figure]:
    steps = min(_STEPS, len(pairs.epoch) // batch)
    figures = []
    for num_ranks in _RANKS:
        if num_ranks > batch:
            continue
        plans = [_planned(pairs, batch, step, num_ranks) for step in range(steps)]
        case = f"{start}/{num_ranks}_ranks"
        efficiency = [float(sizes.tokens.sum()) / _capacity(ranks) for sizes, ranks, _ in plans]
        bound = [float(sizes.tokens.sum()) / _least_capacity(sizes, num_ranks) for sizes, _, _ in plans]
        target = _EFFICIENCY_TARGET if num_ranks == 1 and batch >= 512 else None
        figures.append(_figure(f"{case}/packing_efficiency", efficiency, "fraction", target))
        figures.append(_figure(f"{case}/packing_efficiency_bound", bound, "fraction"))
        if num_ranks > 1:
            loads = [[sum(sizes.cost[s].sum() for s in rank) for rank in ranks] for sizes, ranks, _ in plans]
            target = _IMBALANCE_TARGET if (num_ranks, batch) == (64, 512) else None
            figures.append(_figure(f"{case}/imbalance", [max(load) / mean(load) for load in loads], "ratio", target))
            least = [
                max(1.0, float(sizes.cost.max()) / mean(load)) for (sizes, _, _), load in zip(plans, loads, strict=True)
            ]
            figures.append(_figure(f"{case}/imbalance_bound", least, "ratio"))
        figures.append(_figure(f"{case}/micro_batches", [float(len(ranks[0])) for _, ranks, _ in plans], "streams"))
        target = _PLANNING_TARGET_MS if batch == 512 else None
        figures.append(_figure(f"{case}/planning_time", [ms for _, _, ms in plans], "ms", target))
    return figures


def _planned(pairs: PairSet, batch: int, step: int, num_ranks: int) -> tuple[PairSizes, list[Streams], float]:
    start_s = time.perf_counter()
    parts = pairs.parts(pairs_of_step(1, step, batch, pairs.epoch))
    _, sizes = group_pairs(parts, _BUDGET_TOKENS, SMALL.hidden)
    ranks = plan_streams(sizes, _BUDGET_TOKENS, num_ranks)
    return sizes, ranks, 1e3 * (time.perf_counter() - start_s)


def _capacity(ranks: list[Streams]) -> int:
    return sum(map(len, ranks)) * _BUDGET_TOKENS


def _least_capacity(sizes: PairSizes, num_ranks: int) -> int:
    each = -(-int(sizes.tokens.sum()) // (_BUDGET_TOKENS * num_ranks))
    return each * num_ranks * _BUDGET_TOKENS


def _figure(name: str, values: Sequence[float], unit: str, target: float | None = None) -> Figure:
    return Figure(name, median(values), unit, min(values), max(values), target)


if __name__ == "__main__":
    main()

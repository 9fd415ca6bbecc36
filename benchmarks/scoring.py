"""Scoring beside transformers' text-classification pipeline, and beside nothing but its own matrix products, in turns.

python -m benchmarks.scoring --data folder/with/hh_val.parquet/and/alpaca_eval_val.parquet

All score the same conversations with the same weights in fp32: chosen and rejected of each pair in the order of the
file, for the first 150 pairs, or for all with --all. A turn scores them all; the first turn of each is not counted. The
pipeline runs at batch size 8, and at the one that is fastest for it on 60 of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.small_llama import Size
from benchmarks.turns import Trainer
from nemo_bt.config.data import SourceSettings
from nemo_bt.data.formats.responses import Text
from nemo_bt.data.synthetic import write_dataset
from nemo_bt.scoring.rows import row_reader

_BATCHES = (1, 2, 4, 8, 16)
_TRIED = 60
_FIRST = 300
_TURNS = 3
_TARGETS = {"batch8": 3.0, "best": 1.8}
_PRODUCTS_TARGET = 1.3
_TOLERANCE = 1e-5
_QUICKSTART = Size(2, 128, 320, 4, 2, vocab=384)
"""That of `make quickstart`, whose tokens are bytes."""


@dataclass(frozen=True)
class Case:
    """A model, a set, and where the files of both lie."""

    name: str
    model: Path
    conversations: list[Any]
    folder: Path

    def start(self, who: str, *options: str, turns: int, what: str = "all") -> Trainer:
        """Start a scorer."""
        arguments = ["--model", str(self.model), "--conversations", str(self.folder / f"{what}.json")]
        arguments += ["--turns", str(turns), "--rewards", str(self.folder / f"{who}.json"), *options]
        return Trainer("benchmarks.scoring_turns", arguments, 1, self.folder / f"{who}.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/scoring"))
    parser.add_argument("--all", action="store_true", help="every pair")
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    figures = []
    for suffix, size, make_tokenizer in (
        ("", small_llama.SMALL, lambda folder: small_llama.make_tokenizer(args.data, folder)),
        ("_bytes", _QUICKSTART, _byte_tokenizer),
    ):
        model = args.folder / f"model{suffix}"
        _make_model(size, model, make_tokenizer)
        for name in ("hh", "alpaca_eval"):
            found = conversations_of(args.data / f"{name}_val.parquet")[: None if args.all else _FIRST]
            case = Case(f"{name}{suffix}", model, found, args.folder / f"{name}{suffix}")
            figures += _measure(case)
    command = f"python -m benchmarks.scoring --data data{' --all' * args.all}"
    print(f"wrote {write_results('scoring', args.host_kind, command, figures)}")


def _make_model(size: Size, folder: Path, make_tokenizer: Callable[[Path], object]) -> None:
    tokenizer = folder.with_name(f"{folder.name}_tokenizer")
    make_tokenizer(tokenizer)
    small_llama.make_model(size, tokenizer, folder, seed=1)


def _byte_tokenizer(folder: Path) -> None:
    quickstart = folder.with_name("quickstart")
    write_dataset(quickstart)
    (quickstart / "tokenizer").rename(folder)


def _measure(case: Case) -> list[Figure]:
    case.folder.mkdir()
    (case.folder / "all.json").write_text(json.dumps(case.conversations))
    (case.folder / "first.json").write_text(json.dumps(case.conversations[:_TRIED]))
    best = _fastest_batch(case)
    scorers = {who: case.start(who, f"--{who}", turns=_TURNS + 1) for who in ("nemo_bt", "products")}
    for batch in sorted({8, best}):
        scorers[f"pipeline{batch}"] = case.start(f"pipeline{batch}", "--pipeline", str(batch), turns=_TURNS + 1)
    for scorer in scorers.values():
        scorer.ready()
    for _ in range(_TURNS):
        for scorer in scorers.values():
            scorer.step()
    for scorer in scorers.values():
        scorer.end()
    rewards = {who: json.loads((case.folder / f"{who}.json").read_text()) for who in scorers}
    difference = max(abs(a - b) for who in rewards for a, b in zip(rewards["nemo_bt"], rewards[who], strict=True))
    assert difference <= _TOLERANCE, difference
    start = f"scoring/{case.name}"
    count = len(case.conversations)
    own = scorers["nemo_bt"].seconds[1:]
    figures = [
        Figure(f"{start}/conversations", count, "count", count, count),
        Figure(f"{start}/largest_difference_of_a_reward", difference, "reward", difference, difference, _TOLERANCE),
        Figure(f"{start}/fastest_pipeline_batch", best, "conversations", best, best),
        _ratio(f"{start}/over_products", own, scorers["products"].seconds[1:], _PRODUCTS_TARGET),
    ]
    for rival, batch in (("batch8", 8), ("best", best)):
        others = scorers[f"pipeline{batch}"].seconds[1:]
        figures.append(_ratio(f"{start}/{rival}/ratio", others, own, _TARGETS[rival]))
    return figures


def _fastest_batch(case: Case) -> int:
    seconds = {}
    for batch in _BATCHES:
        tried = case.start(f"tried{batch}", "--pipeline", str(batch), turns=2, what="first")
        tried.ready()
        seconds[batch] = tried.step()
        tried.end()
    print(f"{case.name}: seconds of the pipeline by batch size {seconds}", flush=True)
    return min(seconds, key=lambda batch: seconds[batch])


def _ratio(name: str, over: list[float], under: list[float], target: float) -> Figure:
    ratios = [one / other for one, other in zip(over, under, strict=True)]
    return Figure(name, median(ratios), "ratio", min(ratios), max(ratios), target)


def conversations_of(file: Path) -> list[Any]:
    """Read chosen and rejected of each pair of a file, in order, as `RewardScorer` takes them."""
    rows: list[Any] = pq.read_table(file).to_pylist()
    reader = row_reader(str(file), rows, SourceSettings(path=str(file)), chat=True, column="reward")
    found = [side for row in rows for sides in reader.sides(row) for side in sides]
    return [side.prompt + side.response if isinstance(side, Text) else side.messages for side in found]


if __name__ == "__main__":
    main()

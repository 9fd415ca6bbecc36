"""Scoring against transformers' text-classification pipeline, with the same weights and conversations, fp32, in turns.

python -m benchmarks.scoring --data folder/with/hh_val.parquet/and/alpaca_eval_val.parquet

Conversations are in the order of the file, chosen and rejected of each pair, for the first 150 pairs, or for all with
--all. A turn scores them all; the first turn of each is not counted. The pipeline runs at batch size 8, and at the one
that is fastest for it on 60 of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.turns import Trainer
from nemo_bt.config.data import SourceSettings
from nemo_bt.data.formats.responses import Side
from nemo_bt.scoring.rows import row_reader

_BATCHES = (1, 2, 4, 8, 16)
_TRIED = 60
_FIRST = 300
_TURNS = 3
_TARGETS = {"batch8": 3.0, "best": 1.8}
_TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/scoring"))
    parser.add_argument("--all", action="store_true", help="every pair: half an hour on two cores")
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    small_llama.make_tokenizer(args.data, args.folder / "tokenizer")
    small_llama.make_model(small_llama.SMALL, args.folder / "tokenizer", args.folder / "model", seed=1)
    figures = [figure for name in ("hh", "alpaca_eval") for figure in _measure(name, args)]
    command = f"python -m benchmarks.scoring --data data{' --all' * args.all}"
    print(f"wrote {write_results('scoring', args.host_kind, command, figures)}")


def _measure(name: str, args: argparse.Namespace) -> list[Figure]:
    folder = args.folder / name
    folder.mkdir()
    found = conversations_of(args.data / f"{name}_val.parquet")[: None if args.all else _FIRST]
    (folder / "all.json").write_text(json.dumps(found))
    (folder / "first.json").write_text(json.dumps(found[:_TRIED]))

    def start(who: str, *options: str, turns: int, what: str = "all") -> Trainer:
        arguments = ["--model", str(args.folder / "model"), "--conversations", str(folder / f"{what}.json")]
        arguments += ["--turns", str(turns), "--rewards", str(folder / f"{who}.json"), *options]
        return Trainer("benchmarks.scoring_turns", arguments, 1, folder / f"{who}.log")

    seconds = {}
    for batch in _BATCHES:
        tried = start(f"tried{batch}", "--pipeline-batch", str(batch), turns=2, what="first")
        tried.ready()
        seconds[batch] = tried.step()
        tried.end()
    print(f"{name}: seconds of the pipeline by batch size {seconds}", flush=True)
    best = min(seconds, key=lambda batch: seconds[batch])
    scorers = {"nemo_bt": start("nemo_bt", turns=_TURNS + 1)}
    for batch in sorted({8, best}):
        scorers[f"pipeline{batch}"] = start(f"pipeline{batch}", "--pipeline-batch", str(batch), turns=_TURNS + 1)
    for scorer in scorers.values():
        scorer.ready()
    for _ in range(_TURNS):
        for scorer in scorers.values():
            scorer.step()
    for scorer in scorers.values():
        scorer.end()
    rewards = {who: json.loads((folder / f"{who}.json").read_text()) for who in scorers}
    difference = max(abs(a - b) for who in rewards for a, b in zip(rewards["nemo_bt"], rewards[who], strict=True))
    assert difference <= _TOLERANCE, difference
    figures = [
        Figure(f"scoring/{name}/conversations", len(found), "count", len(found), len(found)),
        Figure(
            f"scoring/{name}/largest_difference_of_a_reward", difference, "reward", difference, difference, _TOLERANCE
        ),
        Figure(f"scoring/{name}/fastest_pipeline_batch", best, "conversations", best, best),
    ]
    for rival, batch in (("batch8", 8), ("best", best)):
        own = scorers["nemo_bt"].seconds[1:]
        others = scorers[f"pipeline{batch}"].seconds[1:]
        ratios = [theirs / ours for ours, theirs in zip(own, others, strict=True)]
        start_name = f"scoring/{name}/{rival}"
        target = _TARGETS[rival]
        figures.append(Figure(f"{start_name}/ratio", median(ratios), "ratio", min(ratios), max(ratios), target))
    return figures


def conversations_of(file: Path) -> list[Side]:
    """Read chosen and rejected of each pair of a file, in order."""
    rows: list[Any] = pq.read_table(file).to_pylist()
    reader = row_reader(str(file), rows, SourceSettings(path=str(file)), chat=True, column="reward")
    return [side for row in rows for sides in reader.sides(row) for side in sides]


if __name__ == "__main__":
    main()

"""nemo_bt beside itself, a step each in turns: two ranks against one, and 100,000 pairs in the set against 100.

python -m benchmarks.scaling --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet

One rank has all threads; two have half of them each. Sets of different sizes have the same pairs, the small one's many
times over; as a step draws other ones, time is compared for each token.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.small_llama import SMALL
from benchmarks.turns import Trainer
from nemo_bt.batching.sampling import pairs_of_step

_TURNS = 12
_RANKS_TARGET = 0.9
_GROWTH_TARGET = 1.0
_FEW = 100
_MANY = 100_000
_LAYOUTS = {"dp2": ["trainer.devices=2"], "tp2": ["trainer.devices=2", "model.tensor_model_parallel_size=2"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    small_llama.make_tokenizer(args.data, args.folder / "tokenizer")
    small_llama.make_model(SMALL, args.folder / "tokenizer", args.folder / "model", seed=1)
    figures = _ranks(args) + _sizes(args)
    print(f"wrote {write_results('scaling', args.host_kind, 'python -m benchmarks.scaling --data data', figures)}")


def _ranks(args: argparse.Namespace) -> list[Figure]:
    hh = args.data / "hh_train.parquet"
    trainers = {"one": _trainer("one", [], 1, hh, args.folder)}
    trainers |= {name: _trainer(name, layout, 2, hh, args.folder) for name, layout in _LAYOUTS.items()}
    _take_turns(trainers)
    one = trainers["one"].seconds[1:]
    return [
        _figure(
            f"scaling/{name}_over_one_rank/speed_ratio",
            [a / b for a, b in zip(one, trainers[name].seconds[1:], strict=True)],
            _RANKS_TARGET,
        )
        for name in _LAYOUTS
    ]


def _sizes(args: argparse.Namespace) -> list[Figure]:
    rows = pq.read_table(args.data / "hh_train.parquet").slice(0, _FEW)
    times = {}
    trainers = {}
    for number in (_FEW, _MANY):
        file = args.folder / f"{number}.parquet"
        pq.write_table(pa.concat_tables([rows] * (number // _FEW)), file)
        trainers[str(number)] = _trainer(str(number), [], 1, file, args.folder)
    _take_turns(trainers)
    for name, trainer in trainers.items():
        tokens = _step_tokens(args.folder / f"{name}.parquet", args.folder)
        times[name] = [s / t for s, t in zip(trainer.seconds[1:], tokens[1:], strict=True)]
    growth = [many / few for few, many in zip(*times.values(), strict=True)]
    return [_figure(f"scaling/{_MANY}_over_{_FEW}_pairs/step_time_per_token_ratio", growth, _GROWTH_TARGET)]


def _overrides(file: Path, folder: Path, name: str) -> list[str]:
    return small_llama.training_overrides(folder / "model", file, folder / name, _TURNS + 1, seed=1)


def _step_tokens(file: Path, folder: Path) -> list[int]:
    """Count the tokens in the streams of each step."""
    pairs = small_llama.open_pairs(_overrides(file, folder, "unused"), folder / "model")
    steps = (pairs_of_step(1, step, 64, pairs.epoch) for step in range(_TURNS + 1))
    return [sum(group.num_tokens for group in pairs.groups(numbers)) for numbers in steps]


def _trainer(name: str, extra: Sequence[str], num_ranks: int, file: Path, folder: Path) -> Trainer:
    arguments = [*_overrides(file, folder, name), "model.data.tokens_per_micro_batch=4096", *extra]
    return Trainer("benchmarks.nemo_bt_steps", arguments, num_ranks, folder / f"{name}.log")


def _take_turns(trainers: dict[str, Trainer]) -> None:
    for trainer in trainers.values():
        trainer.ready()
    for turn in range(_TURNS):
        times = ", ".join(f"{name} {trainer.step():.2f} s" for name, trainer in trainers.items())
        print(f"turn {turn + 1}: {times}", flush=True)
    for trainer in trainers.values():
        trainer.end()


def _figure(name: str, values: Sequence[float], target: float) -> Figure:
    return Figure(name, median(values), "ratio", min(values), max(values), target)


if __name__ == "__main__":
    main()

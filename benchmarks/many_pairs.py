"""Data sets of a million and of forty million pairs: building the cache, a start, planning steps, memory of training.

python -m benchmarks.many_pairs --folder /disk/with/12GB [--pairs 1000000 40000000]

Generated prompts have ten answers each, and all 45 pairs of them are taken. Each measurement is a process of its own,
and those of the two sizes take turns. With --repeat 10 the larger set, whose cache is there already, comes ten times in
an epoch, and its start and steps alone are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data_cache import training_memory_mb
from benchmarks.results_file import Figure, write_results
from nemo_bt.batching.packing import group_pairs, plan_streams
from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.batching.stream import build_stream
from nemo_bt.config.load import load_settings
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.data.train_tokenizer import train_tokenizer
from nemo_bt.observability.terminal import Terminal

_ANSWERS = 10
_PAIRS_OF_PROMPT = _ANSWERS * (_ANSWERS - 1) // 2
_WORDS = 2_000
_ROW_GROUP = 16_384
_STEPS = 100
_TURNS = 3
_GROWTH_TARGET_MB = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pairs", type=int, nargs=2, default=[1_000_000, 40_000_000])
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--measure", type=Path, help="one measurement, of a file; used by this command")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_start_and_steps(args.folder, args.measure, args.repeat)))
        return
    if args.repeat > 1:
        _measure_repeated(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.folder / "cache", ignore_errors=True)
    files = [args.folder / f"{pairs}.parquet" for pairs in args.pairs]
    for file, pairs in zip(files, args.pairs, strict=True):
        write_prompts(file, pairs // _PAIRS_OF_PROMPT)
    train_tokenizer(iter(words()), 1024, args.folder / "tokenizer")
    built = [_measured(args.folder, file) for file in files]
    print("built", built, flush=True)
    turns = [[_measured(args.folder, file) for file in files] for _ in range(_TURNS)]
    print("started", turns, flush=True)
    memory = [
        [training_memory_mb(args.folder, overrides_of(args.folder, file, 1)) for file in files] for _ in range(_TURNS)
    ]
    print("trained", memory, flush=True)
    figures = []
    for at, pairs in enumerate(args.pairs):
        case = f"many_pairs/{pairs}_pairs"
        figures.append(_figure(f"{case}/build", [built[at]["pairs"] / built[at]["start_s"]], "pairs/s"))
        figures += _of_starts(case, [turn[at] for turn in turns])
    speed = [built[1]["pairs"] / built[1]["start_s"] / (built[0]["pairs"] / built[0]["start_s"])]
    step = [large["step_ms"] / small["step_ms"] for small, large in turns]
    figures += [
        _figure("many_pairs/ratio/build_speed", speed, "ratio"),
        _figure("many_pairs/ratio/planning_a_step", step, "ratio"),
    ]
    for kind, target in (("anonymous", _GROWTH_TARGET_MB), ("mapped", None)):
        growth = [large[kind] - small[kind] for small, large in memory]
        figures.append(_figure(f"many_pairs/growth/training_{kind}", growth, "MB", target))
    command = f"python -m benchmarks.many_pairs --pairs {args.pairs[0]} {args.pairs[1]}"
    print(f"wrote {write_results('many_pairs', args.host_kind, command, figures)}")


def _measure_repeated(args: argparse.Namespace) -> None:
    file = args.folder / f"{args.pairs[1]}.parquet"
    starts = [_measured(args.folder, file, args.repeat) for _ in range(_TURNS)]
    memory = [training_memory_mb(args.folder, overrides_of(args.folder, file, args.repeat)) for _ in range(_TURNS)]
    entries = int(starts[0]["pairs"])
    case = f"many_pairs_repeated/{entries}_entries"
    figures = _of_starts(case, starts)
    for kind in ("anonymous", "mapped"):
        figures.append(_figure(f"{case}/training_{kind}", [one[kind] for one in memory], "MB"))
    command = f"python -m benchmarks.many_pairs --repeat {args.repeat}"
    print(f"wrote {write_results('many_pairs_repeated', args.host_kind, command, figures)}")


def _of_starts(case: str, starts: list[dict[str, float]]) -> list[Figure]:
    return [
        _figure(f"{case}/start", [one["start_s"] for one in starts], "s"),
        _figure(f"{case}/first_step", [one["first_step_s"] for one in starts], "s"),
        _figure(f"{case}/step", [one["step_ms"] for one in starts], "ms"),
    ]


def words() -> list[str]:
    """Draw words of letters, the same ones each time."""
    random = np.random.default_rng(0)
    return ["".join(random.choice(list("etaoinshrdlu"), size=length)) for length in random.integers(2, 9, _WORDS)]


def write_prompts(path: Path, num: int) -> None:
    """Write a parquet file of prompts with ten scored answers each, of a few words."""
    random = np.random.default_rng(1)
    known = np.array(words(), dtype=object)
    writer = None
    for start in range(0, num, _ROW_GROUP):
        count = min(_ROW_GROUP, num - start)
        prompts = [" ".join(chosen) for chosen in known[random.integers(0, _WORDS, (count, 8))]]
        first, second = known[random.integers(0, _WORDS, (2, count, _ANSWERS))]
        answers = [
            [f"{a} {b} {number}" for number, (a, b) in enumerate(zip(*pair, strict=True))]
            for pair in zip(first, second, strict=True)
        ]
        scores = random.permuted(np.tile(np.arange(float(_ANSWERS)), (count, 1)), axis=1)
        table = pa.table({"prompt": prompts, "completions": answers, "scores": scores.tolist()})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def overrides_of(folder: Path, file: Path, repeat: int) -> list[str]:
    """Give the settings of a run on a file."""
    return [
        "model=llama_quickstart",
        f"exp_manager.explicit_log_dir={folder / 'run'}",
        f"model.data.train=[{{path:{file},pairs:{{mode:all_pairs}},repeat:{repeat}}}]",
        f"model.tokenizer.type={folder / 'tokenizer'}",
        f"model.data.cache_dir={folder / 'cache'}",
        "model.encoder_seq_length=4096",
        "model.global_batch_size=64",
    ]


def _measured(folder: Path, file: Path, repeat: int = 1) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.many_pairs", "--folder", str(folder), "--measure", str(file)]
    command += ["--repeat", str(repeat)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def _start_and_steps(folder: Path, file: Path, repeat: int) -> dict[str, float]:
    """Time a start, which builds the cache if there is none, the first step, and steps all over the epoch."""
    settings = load_settings("train", overrides_of(folder, file, repeat))
    tokenizer = load_tokenizer(str(folder / "tokenizer"), None)
    start_s = time.perf_counter()
    pairs = load_sets(settings, tokenizer, False, Terminal(None))["train"]
    loaded_s = time.perf_counter()

    def plan(step: int) -> None:
        size = settings.model.global_batch_size
        budget = settings.model.data.tokens_per_micro_batch
        numbers = pairs_of_step(settings.trainer.seed, step, size, pairs.epoch)
        groups, sizes = group_pairs(pairs.parts(numbers), budget, hidden_size=128)
        for stream in plan_streams(sizes, budget, 1)[0]:
            build_stream(pairs.groups(numbers[[pair for group in stream for pair in groups[group]]]), pad_id=0)

    plan(0)
    planned_s = time.perf_counter()
    steps_ms = []
    for step in np.random.default_rng(1).integers(0, len(pairs.epoch) // 64, _STEPS).tolist():
        step_s = time.perf_counter()
        plan(step)
        steps_ms.append(1e3 * (time.perf_counter() - step_s))
    return {
        "pairs": len(pairs.epoch),
        "start_s": loaded_s - start_s,
        "first_step_s": planned_s - loaded_s,
        "step_ms": float(np.median(steps_ms)),
    }


def _figure(name: str, values: list[float], unit: str, target: float | None = None) -> Figure:
    return Figure(name, float(np.median(values)), unit, min(values), max(values), target)


if __name__ == "__main__":
    main()

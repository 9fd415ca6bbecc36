"""The token cache of a million pairs: time to build it against `tokenizers` alone, a second start, training memory.

python -m benchmarks.data_cache --folder /disk/with/8GB [--pairs 1000000] [--parts 4]

Part by part, `tokenizers` alone (rendered texts in, ids out, every core) and the whole build (read, render, check,
tokenise, write) take turns, so noise of the machine falls on both. Each measurement is a process of its own.
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

import psutil
import pyarrow.parquet as pq

from benchmarks.generated_pairs import contents, write_pairs
from benchmarks.results_file import Figure, write_results
from nemo_bt.batching.packing import group_pairs, plan_streams
from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.batching.stream import build_stream
from nemo_bt.config.load import load_settings
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.data.train_tokenizer import train_tokenizer
from nemo_bt.observability.terminal import Terminal

_RATIO_TARGET = 0.9
_START_TARGET_S = 2.0
_GROWTH_TARGET_MB = 300.0
_STEPS = 20
_MEMORY_RUNS = 3
_SHORT_STREAMS = [
    "model.data.tokens_per_micro_batch=1024",
    "model.data.max_drop_fraction=1",
    "model.global_batch_size=8",
]
"""The model's memory varies with the length of its streams; short streams leave the data's memory visible."""
_SAMPLE_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    parser.add_argument("--measure", choices=("alone", "build", "start"), help="one measurement; used by this command")
    parser.add_argument("files", nargs="*", type=Path, help="of the measurement")
    args = parser.parse_args()
    if args.measure:
        measured = {"alone": _tokenizers_alone, "build": _data_time, "start": _data_time}[args.measure]
        print(json.dumps(measured(args.folder, args.files)))
        return
    _measure_all(args)


def _measure_all(args: argparse.Namespace) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.folder / "cache", ignore_errors=True)
    files = [args.folder / f"part{i}.parquet" for i in range(args.parts)]
    for seed, file in enumerate(files):
        if not file.exists():
            write_pairs(file, args.pairs // args.parts, seed)
            print(f"generated {file.name}", flush=True)
    small = args.folder / "small.parquet"
    write_pairs(small, 2_000, seed=1000)
    train_tokenizer(contents(files[0], 5_000), 8192, args.folder / "tokenizer")
    ratios = []
    tokens = 0
    for file in files:
        alone = _measured(args.folder, "alone", [file])
        build = _measured(args.folder, "build", [file])
        ratios.append(alone["seconds"] / build["seconds"])
        tokens += int(alone["tokens"])
        print(f"{file.name}: alone {alone['seconds']:.1f} s, build {build['seconds']:.1f} s", flush=True)
    starts = [_measured(args.folder, "start", files)["seconds"] for _ in range(3)]
    _measured(args.folder, "build", [small])
    growth: dict[str, list[float]] = {"anonymous": [], "mapped": []}
    for _ in range(_MEMORY_RUNS):
        less = training_memory_mb(args.folder, _overrides(args.folder, [small]))
        more = training_memory_mb(args.folder, _overrides(args.folder, files))
        for kind, values in growth.items():
            values.append(more[kind] - less[kind])
    case = f"data_cache/{args.pairs}_pairs"
    print(f"{tokens / args.pairs:.0f} tokens a pair in conversations of their own")
    figures = [
        _figure(f"{case}/build_speed_over_tokenizers_alone", ratios, "ratio", _RATIO_TARGET),
        _figure(f"{case}/second_start_to_first_batch", starts, "s", _START_TARGET_S),
        _figure(f"{case}/training_memory_growth", growth["anonymous"], "MB", _GROWTH_TARGET_MB),
        _figure(f"{case}/training_mapped_growth", growth["mapped"], "MB"),
    ]
    command = f"python -m benchmarks.data_cache --pairs {args.pairs} --parts {args.parts}"
    print(f"wrote {write_results('data_cache', args.host_kind, command, figures)}")


def _figure(name: str, values: list[float], unit: str, target: float | None = None) -> Figure:
    middle = sorted(values)[len(values) // 2]
    return Figure(name, middle, unit, min(values), max(values), target)


def _measured(folder: Path, what: str, files: list[Path]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data_cache", "--folder", str(folder), "--measure", what]
    result = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=3600, check=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def _tokenizers_alone(folder: Path, files: list[Path]) -> dict[str, float]:
    """Time `tokenizers` in batches on every core; reading and rendering are not counted."""
    tokenizer = load_tokenizer(str(folder / "tokenizer"), None)
    seconds = 0.0
    tokens = 0
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(4096):
            sides = [row[side] for row in batch.to_pylist() for side in ("chosen", "rejected")]
            texts = tokenizer.apply_chat_template(sides, tokenize=False)
            start_s = time.perf_counter()
            encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ids = [encoding.ids for encoding in encodings]
            seconds += time.perf_counter() - start_s
            tokens += sum(map(len, ids))
    return {"seconds": seconds, "tokens": tokens}


def _overrides(folder: Path, files: list[Path]) -> list[str]:
    return [
        "model=llama_quickstart",
        "exp_manager.explicit_log_dir=" + str(folder / "run"),
        f"model.data.train=[{','.join(map(str, files))}]",
        f"model.tokenizer.type={folder / 'tokenizer'}",
        f"model.data.cache_dir={folder / 'cache'}",
        "model.encoder_seq_length=4096",
        "model.global_batch_size=64",
    ]


def _data_time(folder: Path, files: list[Path]) -> dict[str, float]:
    """Time the way from the settings to the streams of the first step."""
    settings = load_settings("train", _overrides(folder, files))
    tokenizer = load_tokenizer(str(folder / "tokenizer"), None)
    start_s = time.perf_counter()
    pairs = load_sets(settings, tokenizer, False, Terminal(None))["train"]
    numbers = pairs_of_step(settings.trainer.seed, 0, settings.model.global_batch_size, pairs.epoch)
    budget = settings.model.data.tokens_per_micro_batch
    groups, sizes = group_pairs(pairs.parts(numbers), budget, hidden_size=128)
    for stream in plan_streams(sizes, budget, 1)[0]:
        build_stream(pairs.groups(numbers[[pair for group in stream for pair in groups[group]]]), pad_id=0)
    return {"seconds": time.perf_counter() - start_s, "pairs": len(pairs.epoch)}


def training_memory_mb(folder: Path, overrides: list[str]) -> dict[str, float]:
    """Give the peak memory of a few steps of `nemo-bt train`: its own, and pages of the mapped cache that it reads.

    Args:
        folder: has the cache, and gets the log directory `run`, where the settings name it.
    """
    run = folder / "run"
    overrides = [*overrides, *_SHORT_STREAMS, "trainer.accelerator=cpu", f"trainer.max_steps={_STEPS}"]
    command = [sys.executable, "-m", "nemo_bt", "train", *overrides]
    peak = {"anonymous": 0.0, "mapped": 0.0}
    with (folder / "train.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            try:
                maps = psutil.Process(process.pid).memory_maps(grouped=True)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                break
            sizes = {
                "anonymous": sum(part.anonymous for part in maps),
                "mapped": sum(part.rss - part.anonymous for part in maps if str(folder / "cache") in part.path),
            }
            peak = {kind: max(peak[kind], size / 1e6) for kind, size in sizes.items()}
            time.sleep(_SAMPLE_S)
    if process.wait():
        raise SystemExit(f"training failed: see {folder / 'train.log'}")
    shutil.rmtree(run)
    return peak


if __name__ == "__main__":
    main()

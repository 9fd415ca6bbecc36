"""SmolLM2-135M-Instruct trained on real preferences beside TRL's RewardTrainer: losses, accuracy, time and memory.

python -m benchmarks.real_model --data folder/with/hh_train.parquet/and/the/like

It needs what `make models` has prepared. Both trainers start from the same head, see the same pairs in the same order
and take turns, a step each. TRL's micro-batch is the one that is fastest for it alone, on the first steps; ours holds
the longest pair. Both models are then evaluated by `nemo-bt evaluate` on the first pairs of the validation set. Each
set has a file of results. On two cores hh takes about an hour and AlpacaEval, whose answers are longer, about two:
--sets hh measures one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.rivals import OWN, Commands, in_turns, one_by_one
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.pretrained.head import new_head
from tests.support.real_catalog import BY_NAME
from tests.support.real_models import models_folder

_MODEL = "SmolLM2-135M-Instruct"
_PAIRS = 512
EVALUATED_PAIRS = 312
BATCH_PAIRS = 16
_ANY_LENGTH_TOKENS = 65536
_LR = 1e-5
_SEED = 1
_LOSS_TOLERANCE_NATS = 2e-3
"""TRL's log rounds to 4 decimals."""
_SPEED_TARGETS = {"hh": 2.5, "alpaca_eval": 2.0}
_MEMORY_TARGET = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/real_model"))
    parser.add_argument("--sets", nargs="+", default=list(_SPEED_TARGETS), choices=_SPEED_TARGETS)
    parser.add_argument("--pairs", type=int, default=_PAIRS, help="of each set; another number writes no results")
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[1, 2, 4], help="pairs, tried for TRL")
    parser.add_argument("--evaluated-pairs", type=int, default=EVALUATED_PAIRS, help="of each validation set, at most")
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    if not (models_folder() / _MODEL).is_dir():
        sys.exit(f"not there: {_MODEL}. Run make models first.")
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    make_classifier(args.folder / "model")
    for name in args.sets:
        figures = measure(name, args)
        if args.pairs == _PAIRS:
            command = f"python -m benchmarks.real_model --data data --sets {name}"
            print(f"wrote {write_results(f'real_model_{name}', args.host_kind, command, figures)}")
        else:
            print("\n".join(f"{f.name}: {f.value:.4g} {f.unit} ({f.min:.4g} to {f.max:.4g})" for f in figures))


def measure(name: str, args: argparse.Namespace) -> list[Figure]:
    """Train both on the pairs of one set, and evaluate both."""
    folder = args.folder / name
    model = args.folder / "model"
    num_steps = args.pairs // BATCH_PAIRS
    overrides, pairs, stream_tokens = training(args.data / f"{name}_train.parquet", args.pairs, model, folder / "run")
    folder.mkdir()
    small_llama.write_token_pairs(pairs, BATCH_PAIRS, num_steps, _SEED, folder / "pairs.parquet")
    tried: Commands = {
        f"trl{size}": ("benchmarks.trl_steps", _trl_arguments(args, folder, f"tried{size}", size, 2))
        for size in args.micro_batches
    }
    alone = one_by_one(tried, 1, 1, folder, f"{name}, TRL alone")
    best = min((trainer.seconds[-1], int(rival[3:])) for rival, trainer in alone.items())[1]
    trl = ("benchmarks.trl_steps", _trl_arguments(args, folder, "trl", best, num_steps))
    both: Commands = {OWN: ("benchmarks.nemo_bt_steps", overrides), "trl": trl}
    trainers = in_turns(both, 1, num_steps - 1, folder, name)
    own, other = trainers[OWN], trainers["trl"]
    ratios = [theirs / ours for theirs, ours in zip(other.seconds[1:], own.seconds[1:], strict=True)]
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    trl_losses = json.loads((folder / "trl" / "losses.json").read_text())
    apart = [abs(ours - theirs) for ours, theirs in zip(losses, trl_losses, strict=True)]
    (checkpoint,) = (folder / "run" / "checkpoints").glob(f"*-step{num_steps}.nemo")
    start = f"real_model_{name}"
    return [
        figure(f"{start}/pairs", [float(args.pairs)], "pairs"),
        figure(f"{start}/trl/micro_batch", [float(best)], "pairs"),
        figure(f"{start}/nemo_bt/micro_batch", [float(stream_tokens)], "tokens"),
        figure(f"{start}/pairs_per_second_ratio", ratios, "ratio", _SPEED_TARGETS[name]),
        figure(f"{start}/peak_memory_ratio", [own.peak_mb / other.peak_mb], "ratio", _MEMORY_TARGET),
        figure(f"{start}/nemo_bt/peak_memory", [own.peak_mb], "MB"),
        figure(f"{start}/trl/peak_memory", [other.peak_mb], "MB"),
        figure(f"{start}/loss_difference", apart, "nats", _LOSS_TOLERANCE_NATS),
        figure(f"{start}/nemo_bt/first_loss", losses[:1], "nats"),
        figure(f"{start}/nemo_bt/last_losses", losses[-8:], "nats"),
        *(accuracy(f"{start}/before", model, name, args, folder / "before")),
        *(accuracy(f"{start}/nemo_bt", checkpoint, name, args, folder / "evaluated")),
        *(accuracy(f"{start}/trl", folder / "trl" / "model", name, args, folder / "trl_evaluated")),
    ]


def training(data: Path, num_pairs: int, model: Path, run: Path) -> tuple[list[str], PairSet, int]:
    """Give the overrides for one epoch of a file's first pairs, the pairs, and the tokens of a micro-batch."""
    overrides = [
        *small_llama.training_overrides(
            model, f"[{{path: {data}, count: {num_pairs}}}]", run, num_pairs // BATCH_PAIRS, _SEED
        ),
        f"model.global_batch_size={BATCH_PAIRS}",
        f"model.optim.lr={_LR}",
    ]
    pairs = small_llama.open_pairs([*overrides, f"model.data.tokens_per_micro_batch={_ANY_LENGTH_TOKENS}"], model)
    every = range(sum(map(len, pairs.sources)))
    parts = pairs.parts(every)
    stream_tokens = -(-int((parts.prefix_tokens + parts.tokens_PK.sum(axis=1)).max()) // 256) * 256
    return [*overrides, f"model.data.tokens_per_micro_batch={stream_tokens}"], pairs, stream_tokens


def make_classifier(folder: Path) -> None:
    """Write the published weights with a new head and a pad token of its own, which both trainers read."""
    published = models_folder() / _MODEL
    tokenizer = AutoTokenizer.from_pretrained(published)
    tokenizer.pad_token = BY_NAME[_MODEL].unused
    model = AutoModelForSequenceClassification.from_pretrained(
        published, num_labels=1, pad_token_id=tokenizer.pad_token_id, dtype=torch.float32
    )
    head = new_head(model.config.hidden_size, torch.Generator().manual_seed(_SEED))
    model.score.weight.data.copy_(head)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _trl_arguments(args: argparse.Namespace, folder: Path, name: str, micro_batch: int, num_steps: int) -> list[str]:
    settings: dict[str, Any] = {
        "model": str(args.folder / "model"),
        "pairs": str(folder / "pairs.parquet"),
        "folder": str(folder / name),
        "micro_batch": micro_batch,
        "batch": BATCH_PAIRS,
        "steps": num_steps,
        "lr": _LR,
        "weight_decay": small_llama.WEIGHT_DECAY,
        "beta2": small_llama.BETA2,
        "seed": _SEED,
        "on_gpu": False,
        "bf16": False,
        "keeps_model": name == "trl",
    }
    return ["--settings", json.dumps(settings)]


def accuracy(name: str, model: Path, data: str, args: argparse.Namespace, output: Path) -> list[Figure]:
    """Evaluate a model on the validation set; the spread is the 95 % interval."""
    rows = pq.read_table(args.data / f"{data}_val.parquet").slice(0, args.evaluated_pairs)
    evaluated = args.folder / f"{data}_val.parquet"
    pq.write_table(rows, evaluated)
    command = [
        *(sys.executable, "-m", "nemo_bt", "evaluate"),
        f"model.restore_from_path={model}",
        f"evaluate.input={evaluated}",
        f"evaluate.output={output}",
        f"model.encoder_seq_length={small_llama.MAX_LENGTH_TOKENS}",
        "trainer.accelerator=cpu",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{model}: {result.stderr[-2000:]}")
    found = json.loads((output / "results.json").read_text())["overall"]
    print(f"{name}: accuracy {found['accuracy']:.4f} of {found['pairs']} pairs", flush=True)
    return [Figure(f"{name}/accuracy", found["accuracy"], "share", found["low"], found["high"])]


def figure(name: str, values: list[float], unit: str, target: float | None = None) -> Figure:
    return Figure(name, median(values), unit, min(values), max(values), target)


if __name__ == "__main__":
    main()

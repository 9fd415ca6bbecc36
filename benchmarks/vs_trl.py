"""Training against TRL's RewardTrainer: same model, same pairs, same AdamW, same threads, fp32, step by step in turns.

python -m benchmarks.vs_trl --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet

TRL runs at its default micro-batch of 8 and at the one that is fastest for it here (of 1, 2, 4 and 8, with
accumulation to the same step of 64 pairs; 16 pairs for the larger model), without its default of gradient
checkpointing, which would slow it down. A ratio is taken for each turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from benchmarks.results_file import Figure, write_results
from benchmarks.turns import Trainer
from nemo_bt.config import load_settings
from nemo_bt.data.load import load_sets
from nemo_bt.data.tokenizer import load_tokenizer
from nemo_bt.data.train_tokenizer import texts_of, train_tokenizer
from nemo_bt.epoch import pairs_of_step
from nemo_bt.terminal import Terminal

_LR, _WEIGHT_DECAY, _BETA2 = 1e-4, 0.01, 0.98
_MICRO_BATCHES = (1, 2, 4, 8)
_TARGETS = {("hh", "micro8"): 5.0, ("hh", "best"): 2.6, ("alpaca_eval", "micro8"): 3.5, ("alpaca_eval", "best"): 2.0}
_MEMORY_TARGET = 0.5


@dataclass(frozen=True)
class Size:
    """A Llama from random weights, and the pairs of a step."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    key_heads: int
    batch_pairs: int

    @property
    def name(self) -> str:
        """As 4x256."""
        return f"{self.layers}x{self.hidden}"


@dataclass(frozen=True)
class Case:
    """One comparison."""

    data: str
    size: Size
    num_ranks: int
    turns: int

    @property
    def name(self) -> str:
        """hh for the small model in one process, else hh_8x512_2ranks."""
        size = "" if self.size.hidden == 256 else f"_{self.size.name}"
        return self.data + size + ("" if self.num_ranks == 1 else f"_{self.num_ranks}ranks")


SMALL, LARGE = Size(4, 256, 688, 8, 4, 64), Size(8, 512, 1376, 8, 4, 16)
CASES = [
    Case("hh", SMALL, 1, turns=5),
    Case("alpaca_eval", SMALL, 1, turns=3),
    Case("hh", SMALL, 2, turns=3),
    Case("alpaca_eval", SMALL, 2, turns=2),
    Case("hh", LARGE, 1, turns=3),
    Case("alpaca_eval", LARGE, 1, turns=2),
    Case("hh", LARGE, 2, turns=2),
    Case("alpaca_eval", LARGE, 2, turns=2),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/vs_trl"))
    parser.add_argument("--tokens-per-micro-batch", type=int, default=8192)
    parser.add_argument("--encoder-seq-length", type=int, default=2048)
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    parser.add_argument("--only", nargs="*", help="names of cases; writes no results")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    train_tokenizer(texts_of([str(args.data / "alpaca_eval_train.parquet")]), 8192, args.folder / "tokenizer")
    figures: list[Figure] = []
    fastest: dict[str, int] = {}
    for case in CASES:
        if args.only and case.name not in args.only:
            continue
        folder = args.folder / case.name
        inputs = _inputs(case, args, folder, seed=1)
        figures += _compare(case, inputs, folder, fastest)
    if not args.only:
        command = "python -m benchmarks.vs_trl --data data"
        print(f"wrote {write_results('vs_trl', args.host_kind, command, figures)}")


@dataclass(frozen=True)
class Inputs:
    """What both trainers get."""

    model: Path
    overrides: list[str]
    pairs: Path
    num_steps: int
    stream_tokens: float
    """Real tokens of a step, the mean of all: what a trainer without shared prompts and padding would need."""


def _inputs(case: Case, args: argparse.Namespace, folder: Path, seed: int) -> Inputs:
    """The model as a Hugging Face folder, nemo_bt's settings, and its pairs in its order as a file for TRL."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(str(args.folder / "tokenizer"), None)
    size, num_steps = case.size, case.turns + 1
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=size.hidden,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=args.encoder_seq_length,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    overrides = [
        f"model.restore_from_path={folder / 'model'}",
        f"exp_manager.explicit_log_dir={folder / 'run'}",
        f"model.data.train={args.data / case.data}_train.parquet",
        f"model.data.tokens_per_micro_batch={args.tokens_per_micro_batch}",
        f"model.encoder_seq_length={args.encoder_seq_length}",
        "model.data.max_drop_fraction=1",
        f"model.global_batch_size={size.batch_pairs}",
        f"model.optim.lr={_LR}",
        "model.optim.sched.name=constant",
        "model.optim.sched.warmup_steps=0",
        f"model.optim.weight_decay={_WEIGHT_DECAY}",
        f"model.optim.betas=[0.9,{_BETA2}]",
        f"trainer.devices={case.num_ranks}",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "trainer.limit_val_batches=0",
        f"trainer.max_steps={num_steps}",
        f"trainer.seed={seed}",
    ]
    settings = load_settings("train", overrides)
    pairs = load_sets(settings, tokenizer, folder / "model", False, Terminal(None))["train"]
    sides, tokens = [], 0
    for step in range(num_steps):
        for group in pairs.groups(pairs_of_step(seed, step, size.batch_pairs, pairs.epoch)):
            chosen, rejected = (group.prefix.tolist() + c.tolist() for c in group.continuations)
            sides.append({"chosen_ids": chosen, "rejected_ids": rejected})
            tokens += len(chosen) + len(rejected)
    pq.write_table(pa.Table.from_pylist(sides), folder / "pairs.parquet")
    return Inputs(folder / "model", overrides, folder / "pairs.parquet", num_steps, tokens / num_steps)


def _compare(case: Case, inputs: Inputs, folder: Path, fastest: dict[str, int]) -> list[Figure]:
    """All trainers of a case, started together, in turns; the fastest micro-batch is found in one process."""
    env = os.environ | {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // case.num_ranks)),
        "WANDB_MODE": "offline",
    }
    candidates = [fastest[case.data], 8] if case.data in fastest else list(_MICRO_BATCHES)
    ours = Trainer("benchmarks.nemo_bt_steps", inputs.overrides, case.num_ranks, folder / "nemo_bt.log", env)
    trl = {
        size: Trainer(
            "benchmarks.trl_steps",
            _trl_arguments(case, inputs, size, folder),
            case.num_ranks,
            folder / f"trl{size}.log",
            env,
        )
        for size in sorted(set(candidates))
    }
    if case.data not in fastest:
        fastest[case.data] = min(trl, key=lambda size: float(trl[size].steps[0]["seconds"]))
        print({size: t.steps[0] for size, t in trl.items()}, ours.steps[0])
        for size in trl.keys() - {8, fastest[case.data]}:
            trl[size].stop()
    for turn in range(case.turns):
        seconds = {"nemo_bt": ours.step()}
        seconds |= {f"trl{size}": trl[size].step() for size in {8, fastest[case.data]}}
        print(
            f"{case.name} turn {turn + 1}: " + ", ".join(f"{name} {s:.2f} s" for name, s in seconds.items()), flush=True
        )
    for trainer in [ours, *(trl[size] for size in {8, fastest[case.data]})]:
        trainer.end()
    return []


def _trl_arguments(case: Case, inputs: Inputs, micro_batch: int, folder: Path) -> list[str]:
    settings: dict[str, Any] = {
        "model": str(inputs.model),
        "pairs": str(inputs.pairs),
        "folder": str(folder / f"trl{micro_batch}"),
        "micro_batch": micro_batch,
        "batch": case.size.batch_pairs,
        "steps": inputs.num_steps,
        "lr": _LR,
        "weight_decay": _WEIGHT_DECAY,
        "beta2": _BETA2,
        "seed": 1,
    }
    return ["--settings", json.dumps(settings)]


if __name__ == "__main__":
    main()

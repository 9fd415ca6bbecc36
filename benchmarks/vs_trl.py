"""Training against TRL's RewardTrainer with the same weights, pairs, AdamW and threads, fp32, one step each in turns.

python -m benchmarks.vs_trl --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet

TRL runs at its default micro-batch of 8 and at the one that is fastest for it (of 1, 2, 4 and 8 for the small model on
hh, fewer elsewhere), accumulated to the same number of pairs a step. It runs without gradient checkpointing, its
default, which would slow it down. The first step of each is not counted; the second tells which micro-batch is fastest.
A ratio is taken for each turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.rivals import OWN, Commands, in_turns, one_by_one
from benchmarks.small_llama import LARGE, SMALL, Size

_MICRO_BATCHES = (1, 2, 4, 8)
_TARGETS = {"hh": {"micro8": 5.0, "best": 2.6}, "alpaca_eval": {"micro8": 3.5, "best": 2.0}}
_MEMORY_TARGET = {"micro8/memory": 0.5}
_UNCOUNTED = 1


@dataclass(frozen=True)
class Case:
    """One comparison: `turns` counted steps for each seed, after one that is not.

    Micro-batches other than 8 are tried in the first turn of the first seed, and then only its fastest goes on.
    """

    data: str
    size: Size
    num_ranks: int
    batch_pairs: int
    micro_batches: tuple[int, ...]
    turns: int
    seeds: tuple[int, ...] = (1,)
    benchmark: str = "vs_trl"
    accelerator: str = "cpu"
    precision: str = "32"
    in_turns: bool = True
    loss_tolerance_nats: float = 1e-3
    """Largest difference of losses; TRL's log rounds to 4 decimals. A larger one in bf16 is only shown."""
    own_targets: tuple[tuple[str, float], ...] | None = None

    @property
    def name(self) -> str:
        """Name of the case: hh for the small model in one process, hh_8x512_2ranks for the larger in two."""
        size = "" if self.size is SMALL else f"_{self.size.name}"
        return self.data + size + ("" if self.num_ranks == 1 else f"_{self.num_ranks}ranks")

    @property
    def targets(self) -> dict[str, float]:
        """Target by rival, and by `<rival>/memory`."""
        if self.own_targets is not None:
            return dict(self.own_targets)
        return _TARGETS[self.data] | _MEMORY_TARGET if self.size is SMALL and self.num_ranks == 1 else {}


CASES = [
    Case("hh", SMALL, 1, 64, _MICRO_BATCHES, turns=2, seeds=(1, 2, 3)),
    Case("alpaca_eval", SMALL, 1, 64, (1, 8), turns=2),
    Case("hh", SMALL, 2, 32, (1, 8), turns=2),
    Case("alpaca_eval", SMALL, 2, 32, (1, 8), turns=2),
    Case("hh", LARGE, 1, 8, (1, 8), turns=2),
    Case("alpaca_eval", LARGE, 1, 8, (1, 8), turns=2),
]
ALL_CASES = [
    Case("hh", SMALL, 1, 64, _MICRO_BATCHES, turns=3, seeds=(1, 2, 3)),
    Case("alpaca_eval", SMALL, 1, 64, _MICRO_BATCHES, turns=3),
    Case("hh", SMALL, 2, 32, (1, 2, 8), turns=3),
    Case("alpaca_eval", SMALL, 2, 32, (1, 8), turns=2),
    Case("hh", LARGE, 1, 8, (1, 2, 8), turns=3),
    Case("alpaca_eval", LARGE, 1, 8, (1, 8), turns=2),
    Case("hh", LARGE, 2, 16, (1, 8), turns=2),
    Case("alpaca_eval", LARGE, 2, 16, (1, 8), turns=2),
]
"""Cases of --all, which takes half an hour on two cores."""


@dataclass(frozen=True)
class Measured:
    """Results of one seed of a case, with the seconds of counted steps by trainer."""

    fastest: int
    seconds: dict[str, list[float]]
    peak_mb: dict[str, float]
    losses: dict[str, list[float]]
    step_tokens: list[int]
    """Tokens in the streams of the counted steps, each prompt once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/vs_trl"))
    parser.add_argument("--tokens-per-micro-batch", type=int, default=4096)
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    parser.add_argument("--all", action="store_true", help="more micro-batches and turns, and the larger model twice")
    parser.add_argument("--only", nargs="*", help="names of cases; writes no results")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    small_llama.make_tokenizer(args.data, args.folder / "tokenizer")
    figures: list[Figure] = []
    for case in ALL_CASES if args.all else CASES:
        if not args.only or case.name in args.only:
            figures += measure(case, args)
    if not args.only:
        command = f"python -m benchmarks.vs_trl --data data{' --all' * args.all}"
        print(f"wrote {write_results('vs_trl', args.host_kind, command, figures)}")


def measure(case: Case, args: argparse.Namespace) -> list[Figure]:
    """Measure a case with the command line's `args`."""
    measured = [_measure(case, case.micro_batches, case.seeds[0], args)]
    best = measured[0].fastest
    measured += [_measure(case, (best,), seed, args) for seed in case.seeds[1:]]
    return _figures(case, measured, f"trl{best}")


def _measure(case: Case, micro_batches: Sequence[int], seed: int, args: argparse.Namespace) -> Measured:
    """Start the trainers of a case and let them take turns."""
    folder = args.folder / f"{case.name}_{seed}"
    model = folder / "model"
    num_steps = case.turns + _UNCOUNTED
    small_llama.make_model(case.size, args.folder / "tokenizer", model, seed)
    file = args.data / f"{case.data}_train.parquet"
    overrides = small_llama.training_overrides(model, file, folder / "run", num_steps, seed, case.accelerator)
    pairs = small_llama.open_pairs(overrides, model)
    step_tokens = small_llama.write_token_pairs(pairs, case.batch_pairs, num_steps, seed, folder / "pairs.parquet")
    overrides += [
        f"model.global_batch_size={case.batch_pairs}",
        f"trainer.devices={case.num_ranks}",
        f"model.data.tokens_per_micro_batch={args.tokens_per_micro_batch}",
        f"trainer.precision={case.precision}",
    ]
    commands: Commands = {OWN: ("benchmarks.nemo_bt_steps", overrides)}
    for size in micro_batches:
        commands[f"trl{size}"] = ("benchmarks.trl_steps", _trl_arguments(case, folder, size, num_steps, seed))
    run = in_turns if case.in_turns else one_by_one
    trainers = run(commands, case.num_ranks, case.turns, folder, f"{case.name}, seed {seed}")
    fastest = min((median(t.seconds[_UNCOUNTED:]), int(name[3:])) for name, t in trainers.items() if name != OWN)[1]
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {name: json.loads((folder / name / "losses.json").read_text()) for name in trainers.keys() - {"nemo_bt"}}
    return Measured(
        fastest=fastest,
        seconds={name: trainer.seconds[_UNCOUNTED:] for name, trainer in trainers.items()},
        peak_mb={name: trainer.peak_mb for name, trainer in trainers.items()},
        losses=losses | {"nemo_bt": [record["train/loss"] for record in records]},
        step_tokens=step_tokens[_UNCOUNTED:],
    )


def _trl_arguments(case: Case, folder: Path, micro_batch: int, num_steps: int, seed: int) -> list[str]:
    settings: dict[str, Any] = {
        "model": str(folder / "model"),
        "pairs": str(folder / "pairs.parquet"),
        "folder": str(folder / f"trl{micro_batch}"),
        "micro_batch": micro_batch,
        "batch": case.batch_pairs,
        "steps": num_steps,
        "lr": small_llama.LR,
        "weight_decay": small_llama.WEIGHT_DECAY,
        "beta2": small_llama.BETA2,
        "seed": seed,
        "on_gpu": case.accelerator == "gpu",
        "bf16": case.precision == "bf16-mixed",
        "keeps_model": False,
    }
    return ["--settings", json.dumps(settings)]


def _figures(case: Case, measured: Sequence[Measured], best: str) -> list[Figure]:
    start = f"{case.benchmark}/{case.name}"
    figures = [
        _figure(f"{start}/batch", [float(case.batch_pairs)], "pairs"),
        _figure(f"{start}/best/micro_batch", [float(best[3:])], "pairs"),
    ]
    for rival, name in (("micro8", "trl8"), ("best", best)):
        both = [m for m in measured if name in m.seconds]
        if not both:
            continue
        pairs = [pair for m in both for pair in zip(m.seconds[name], m.seconds["nemo_bt"], strict=True)]
        ratios = [other / own for other, own in pairs]
        figures.append(_figure(f"{start}/{rival}/pairs_per_second_ratio", ratios, "ratio", case.targets.get(rival)))
        memory = [m.peak_mb["nemo_bt"] / m.peak_mb[name] for m in both]
        target = case.targets.get(f"{rival}/memory")
        figures.append(_figure(f"{start}/{rival}/peak_memory_ratio", memory, "ratio", target))
        figures += _rates(f"{start}/{rival}", case, both, name)
    figures += _rates(f"{start}/nemo_bt", case, measured, "nemo_bt")
    differences = [
        max(abs(a - b) for a, b in zip(m.losses["nemo_bt"], m.losses[name], strict=True))
        for m in measured
        for name in m.losses.keys() - {"nemo_bt"}
    ]
    if max(differences) > case.loss_tolerance_nats and case.precision == "32":
        raise SystemExit(f"{case.name}: losses differ by {differences} nats: the two did not train the same")
    figures.append(_figure(f"{start}/largest_loss_difference", differences, "nats", case.loss_tolerance_nats))
    if len(measured) > 1:
        last = [m.losses["nemo_bt"][-1] for m in measured]
        figures.append(Figure(f"{start}/loss_spread_over_seeds", max(last) - min(last), "nats", min(last), max(last)))
    return figures


def _rates(start: str, case: Case, measured: Sequence[Measured], name: str) -> list[Figure]:
    """Give pairs and stream tokens a second, and the memory, of one trainer."""
    pairs = [case.batch_pairs / s for m in measured for s in m.seconds[name]]
    tokens = [t / s for m in measured for t, s in zip(m.step_tokens, m.seconds[name], strict=True)]
    return [
        _figure(f"{start}/pairs_per_second", pairs, "pairs/s"),
        _figure(f"{start}/tokens_per_second", tokens, "tokens/s"),
        _figure(f"{start}/peak_memory", [m.peak_mb[name] for m in measured], "MB"),
    ]


def _figure(name: str, values: Sequence[float], unit: str, target: float | None = None) -> Figure:
    return Figure(name, median(values), unit, min(values), max(values), target)


if __name__ == "__main__":
    main()

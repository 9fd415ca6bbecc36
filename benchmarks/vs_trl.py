"""Training against TRL's RewardTrainer: same weights, pairs, AdamW and threads, fp32, one step each in turns.

python -m benchmarks.vs_trl --data folder/with/hh_train.parquet/and/alpaca_eval_train.parquet

TRL runs at its default micro-batch of 8 and at the one that is fastest for it here (of 1, 2, 4 and 8, accumulated to
the same step of 64 pairs; 16 for the larger model), without gradient checkpointing, its default, which would slow it
down. A ratio is taken for each turn.
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
from benchmarks.small_llama import LARGE, SMALL, Size
from benchmarks.turns import Trainer

_MICRO_BATCHES = (1, 2, 4, 8)
_TARGETS = {
    ("hh", "micro8"): 5.0,
    ("hh", "best"): 2.6,
    ("alpaca_eval", "micro8"): 3.5,
    ("alpaca_eval", "best"): 2.0,
}
_MEMORY_TARGET = 0.5


@dataclass(frozen=True)
class Case:
    """One comparison: `turns` counted steps for each seed, after one that is not."""

    data: str
    size: Size
    num_ranks: int
    turns: int
    seeds: tuple[int, ...] = (1,)

    @property
    def name(self) -> str:
        """As hh for the small model in one process, hh_8x512_2ranks for the larger in two."""
        size = "" if self.size is SMALL else f"_{self.size.name}"
        return self.data + size + ("" if self.num_ranks == 1 else f"_{self.num_ranks}ranks")


CASES = [
    Case("hh", SMALL, 1, turns=3, seeds=(1, 2, 3)),
    Case("alpaca_eval", SMALL, 1, turns=3),
    Case("hh", SMALL, 2, turns=3),
    Case("alpaca_eval", SMALL, 2, turns=2),
    Case("hh", LARGE, 1, turns=3),
    Case("alpaca_eval", LARGE, 1, turns=2),
    Case("hh", LARGE, 2, turns=3),
    Case("alpaca_eval", LARGE, 2, turns=2),
]


@dataclass(frozen=True)
class Measured:
    """What one seed of a case gave; seconds of the counted steps, by trainer."""

    seconds: dict[str, list[float]]
    peak_mb: dict[str, float]
    losses: dict[str, list[float]]
    step_tokens: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/vs_trl"))
    parser.add_argument("--tokens-per-micro-batch", type=int, default=4096)
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    parser.add_argument("--only", nargs="*", help="names of cases; writes no results")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    small_llama.make_tokenizer(args.data, args.folder / "tokenizer")
    figures: list[Figure] = []
    fastest: dict[str, int] = {}
    for case in CASES:
        if not args.only or case.name in args.only:
            measured = [_measure(case, seed, args, fastest) for seed in case.seeds]
            figures += _figures(case, measured, f"trl{fastest[case.data]}")
    if not args.only:
        print(f"wrote {write_results('vs_trl', args.host_kind, 'python -m benchmarks.vs_trl --data data', figures)}")


def _measure(case: Case, seed: int, args: argparse.Namespace, fastest: dict[str, int]) -> Measured:
    """Start the trainers of a case, one after the other, and let them take turns."""
    folder = args.folder / f"{case.name}_{seed}"
    model, num_steps = folder / "model", case.turns + 1
    small_llama.make_model(case.size, args.folder / "tokenizer", model, seed)
    overrides = small_llama.training_overrides(
        case.size, model, args.data / f"{case.data}_train.parquet", folder / "run", num_steps, seed
    )
    pairs = small_llama.open_pairs(overrides, model)
    step_tokens = small_llama.write_token_pairs(pairs, case.size.batch_pairs, num_steps, seed, folder / "pairs.parquet")
    overrides += [
        f"trainer.devices={case.num_ranks}",
        f"model.data.tokens_per_micro_batch={args.tokens_per_micro_batch}",
    ]
    ours = Trainer("benchmarks.nemo_bt_steps", overrides, case.num_ranks, folder / "nemo_bt.log")
    trl = {}
    for size in sorted({fastest[case.data], 8}) if case.data in fastest else _MICRO_BATCHES:
        arguments = _trl_arguments(case, folder, size, num_steps, seed)
        trl[f"trl{size}"] = Trainer("benchmarks.trl_steps", arguments, case.num_ranks, folder / f"trl{size}.log")
    if case.data not in fastest:
        fastest[case.data] = min(_MICRO_BATCHES, key=lambda size: trl[f"trl{size}"].seconds[0])
        for name in trl.keys() - {"trl8", f"trl{fastest[case.data]}"}:
            trl.pop(name).stop()
    trainers = {"nemo_bt": ours, **trl}
    for turn in range(case.turns):
        seconds = {name: trainer.step() for name, trainer in trainers.items()}
        times = ", ".join(f"{name} {s:.2f} s" for name, s in seconds.items())
        print(f"{case.name}, seed {seed}, turn {turn + 1}: {times}", flush=True)
    for trainer in trainers.values():
        trainer.end()
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {name: json.loads((folder / name / "losses.json").read_text()) for name in trl}
    return Measured(
        seconds={name: trainer.seconds[1:] for name, trainer in trainers.items()},
        peak_mb={name: trainer.peak_mb for name, trainer in trainers.items()},
        losses=losses | {"nemo_bt": [record["train/loss"] for record in records]},
        step_tokens=step_tokens,
    )


def _trl_arguments(case: Case, folder: Path, micro_batch: int, num_steps: int, seed: int) -> list[str]:
    settings: dict[str, Any] = {
        "model": str(folder / "model"),
        "pairs": str(folder / "pairs.parquet"),
        "folder": str(folder / f"trl{micro_batch}"),
        "micro_batch": micro_batch,
        "batch": case.size.batch_pairs,
        "steps": num_steps,
        "lr": small_llama.LR,
        "weight_decay": small_llama.WEIGHT_DECAY,
        "beta2": small_llama.BETA2,
        "seed": seed,
    }
    return ["--settings", json.dumps(settings)]


def _figures(case: Case, measured: Sequence[Measured], best: str) -> list[Figure]:
    start = f"vs_trl/{case.name}"
    seconds = {name: [s for m in measured for s in m.seconds[name]] for name in ("nemo_bt", "trl8", best)}
    figures = []
    for rival, name in (("micro8", "trl8"), ("best", best)):
        ratios = [other / own for own, other in zip(seconds["nemo_bt"], seconds[name], strict=True)]
        target = _TARGETS[case.data, rival] if case.size is SMALL and case.num_ranks == 1 else None
        figures.append(_figure(f"{start}/{rival}/pairs_per_second_ratio", ratios, "ratio", target))
        per_second = [case.size.batch_pairs / s for s in seconds[name]]
        figures.append(_figure(f"{start}/{rival}/pairs_per_second", per_second, "pairs/s"))
    figures.append(_figure(f"{start}/best/micro_batch", [float(best[3:])], "pairs"))
    for name, amount, unit in (("pairs", case.size.batch_pairs, "pairs/s"), ("tokens", 0, "tokens/s")):
        rates = [(amount or m.step_tokens) / s for m in measured for s in m.seconds["nemo_bt"]]
        figures.append(_figure(f"{start}/nemo_bt/{name}_per_second", rates, unit))
    memory = [m.peak_mb["nemo_bt"] / m.peak_mb["trl8"] for m in measured]
    figures.append(_figure(f"{start}/micro8/peak_memory_ratio", memory, "ratio", _MEMORY_TARGET))
    for name in ("nemo_bt", "trl8"):
        figures.append(_figure(f"{start}/{name}/peak_memory", [m.peak_mb[name] for m in measured], "MB"))
    differences = [
        max(abs(a - b) for a, b in zip(m.losses["nemo_bt"], m.losses[name], strict=True))
        for m in measured
        for name in {"trl8", best}
    ]
    figures.append(_figure(f"{start}/largest_loss_difference", differences, "nats"))
    if len(measured) > 1:
        last = [m.losses["nemo_bt"][-1] for m in measured]
        figures.append(Figure(f"{start}/loss_spread_over_seeds", max(last) - min(last), "nats", min(last), max(last)))
    return figures


def _figure(name: str, values: Sequence[float], unit: str, target: float | None = None) -> Figure:
    return Figure(name, median(values), unit, min(values), max(values), target)


if __name__ == "__main__":
    main()

"""The largest differences of a loss and of a weight, between ten steps at every layout and ten on one rank.

The planner's errors are beside them: how far bytes of activations are off, and how many messages differ.

python -m benchmarks.layouts

Three models of 4 layers with random weights, in fp32 on the CPU: a Llama, a Mixtral of 4 experts, and a Qwen3-MoE of 4
experts with the loss that balances them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.random_set import make_random_set
from benchmarks.results_file import Figure, write_results
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from tests.support.hf_models import save
from tests.support.layouts import LLAMA, MIXTRAL, QWEN3_MOE, SMALL_LLAMA, checkpoint, common
from tests.support.recorded import (
    OneRank,
    activations_difference,
    by_operation_and_ranks,
    found_and_planned,
    settings_of,
)
from tests.support.runs import Run, full_tensors, metrics, relative_difference, run_together

_TARGET = 1e-5
_ONE_RANK = "one rank"
_TIMEOUT_S = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/layouts"))
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    folder = make_random_set(args.folder, 100, 37)
    tokenizer = load_tokenizer(str(folder / "tokenizer"), None)
    for shape in ("mixtral", "qwen3 moe"):
        save(shape, folder / f"hf-{shape}", classifier=False, tokenizer=tokenizer)
    initial = [*common(folder, folder / "initial", 1), *SMALL_LLAMA, "trainer.max_steps=1"]
    starts = {
        "llama": [f"model.restore_from_path={checkpoint(folder / 'initial', 1)}"],
    }
    for shape, loss in {"mixtral": [], "qwen3 moe": ["model.moe_aux_loss_coeff=0.1"]}.items():
        starts[shape] = [f"model.restore_from_path={folder / f'hf-{shape}'}", "model.encoder_seq_length=512", *loss]
    figures: list[Figure] = []
    for num_ranks in args.ranks:
        one = {_ONE_RANK: list[str]()} if num_ranks == 1 else {}
        tables = {"llama": LLAMA, "mixtral": MIXTRAL, "qwen3 moe": QWEN3_MOE}
        layouts = {model: one | table.get(num_ranks, {}) for model, table in tables.items()}
        runs = [Run(initial)] if num_ranks == 1 else []
        for model, named in layouts.items():
            for name, extra in named.items():
                runs.append(Run([*common(folder, folder / model / name, num_ranks), *starts[model], *extra]))
        run_together(num_ranks, runs, folder, _TIMEOUT_S)
        for model, named in layouts.items():
            for name in (name for name in named if name not in one):
                figures += _figures(f"layouts/{model}/{name}", folder / model / name, folder / model / _ONE_RANK)
        print(f"{num_ranks} ranks: {sum(map(len, layouts.values()))} layouts", flush=True)
    print(f"wrote {write_results('layouts', args.host_kind, 'python -m benchmarks.layouts', figures)}")


def _figures(start: str, log_dir: Path, one: Path) -> list[Figure]:
    losses = zip(metrics(log_dir, "train/loss"), metrics(one, "train/loss"), strict=True)
    found = full_tensors(checkpoint(log_dir))
    expected = full_tensors(checkpoint(one))
    if found.keys() != expected.keys():
        raise SystemExit(f"{start}: other weights than one rank: {sorted(found.keys() ^ expected.keys())}")
    values = {
        "loss": max(abs(a - b) / abs(b) for a, b in losses),
        "weights": max(relative_difference(found[name], expected[name]) for name in expected),
    }
    figures = [Figure(f"{start}/{name}", v, "relative difference", v, v, _TARGET) for name, v in values.items()]
    ranks = found_and_planned(log_dir)
    is_uneven = settings_of(log_dir).model.expert_model_parallel_size > 1
    off = activations_difference(ranks, on_average=is_uneven)
    unlike = sum(_unlike(*both, whatever_size=is_uneven) for both in ranks)
    return [
        *figures,
        Figure(f"{start}/activations", off, "relative difference of the planned bytes", off, off, 0.1),
        Figure(f"{start}/messages", unlike, "messages not as planned", unlike, unlike, 0),
    ]


def _unlike(found: OneRank, planned: OneRank, whatever_size: bool) -> int:
    """Count messages of one rank and step that only one of the two has; sizes of those to experts are not planned."""
    if whatever_size:
        sides = by_operation_and_ranks(found), by_operation_and_ranks(planned)
    else:
        sides = found.messages, planned.messages
    return sum(((sides[0] - sides[1]) + (sides[1] - sides[0])).values())


if __name__ == "__main__":
    main()

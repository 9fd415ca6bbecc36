"""Communication and waiting as ranks grow with the batch, counted in real runs, beside the planner's numbers.

python -m benchmarks.weak_scaling

The model is a Llama of 8 layers with random weights, in fp32 on CPU ranks, with eight pairs a step for each rank.
Counted in the second step are bytes that leave a rank, collectives, messages between stages, and the share of the step
that a stage waits.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path

from benchmarks.random_set import make_random_set
from benchmarks.results_file import Figure, write_results
from nemo_bt.planning.schedule import bubble
from nemo_bt.planning.stream_traffic import Sent
from nemo_bt.planning.traffic import bytes_sent
from tests.support.layouts import SP, ZERO, common
from tests.support.recorded import PEER_TO_PEER, Messages, bubble_of, found_and_planned, settings_of
from tests.support.runs import Run, run_together

_PAIRS_PER_RANK = 8
_NUM_RANKS = (1, 2, 4, 8)
_MODEL = [
    "model=llama_quickstart",
    *("model.num_layers=8", "model.hidden_size=128", "model.ffn_hidden_size=256"),
    *("model.num_attention_heads=8", "model.num_query_groups=8", "model.data.tokens_per_micro_batch=512"),
]
_TIMEOUT_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/weak_scaling"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    folder = make_random_set(args.folder, 200, 200)
    figures: list[Figure] = []
    for num_ranks in _NUM_RANKS:
        named = layouts(num_ranks)
        run_together(num_ranks, [Run(_overrides(folder, name, num_ranks)) for name in named], folder, _TIMEOUT_S)
        for name in named:
            figures += _figures(f"weak_scaling/{name}/{num_ranks}", folder / f"{name}-{num_ranks}")
        print(f"{num_ranks} ranks: {len(named)} layouts", flush=True)
    print(f"wrote {write_results('weak_scaling', args.host_kind, 'python -m benchmarks.weak_scaling', figures)}")


def layouts(num_ranks: int) -> dict[str, list[str]]:
    """Name each way to share the work, with its overrides."""
    start = "model."
    return {
        "data": [],
        "data and optimizer": ZERO,
        "tensor": [f"{start}tensor_model_parallel_size={num_ranks}"],
        "tensor and sequence": [f"{start}tensor_model_parallel_size={num_ranks}", *(SP if num_ranks > 1 else [])],
        "pipeline": [f"{start}pipeline_model_parallel_size={num_ranks}"],
        "context": [f"{start}context_parallel_size={num_ranks}"],
    }


def _overrides(folder: Path, name: str, num_ranks: int) -> list[str]:
    more = [
        f"model.global_batch_size={_PAIRS_PER_RANK * num_ranks}",
        "trainer.max_steps=2",
        "trainer.limit_val_batches=0",
    ]
    return [*common(folder, folder / f"{name}-{num_ranks}", num_ranks), *_MODEL, *layouts(num_ranks)[name], *more]


def _figures(start: str, log_dir: Path) -> list[Figure]:
    """Give the figures of the rank that sends most, and the waiting of its pipeline."""
    ranks = found_and_planned(log_dir)
    model = settings_of(log_dir).model
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for side, whose in enumerate(("counted", "planned")):
        messages = [both[side].messages for both in ranks]
        values["bytes"][whose] = max(map(_bytes, messages))
        values["collectives"][whose] = max(_count(one, peers=False) for one in messages)
        values["peer_to_peer"][whose] = max(_count(one, peers=True) for one in messages)
    first = ranks[0][0]
    passes = [ranks[rank][0].passes for rank in first.pipeline]
    values["bubble"]["counted"] = bubble_of(passes)
    values["bubble"]["planned"] = bubble(model.pipeline_model_parallel_size, 1, len(passes[0]) // 2)
    units = {"bytes": "bytes a rank and step", "bubble": "of the step"}
    return [
        Figure(f"{start}/{name}/{whose}", value, units.get(name, "messages a rank and step"), value, value)
        for name, both in values.items()
        for whose, value in both.items()
    ]


def _bytes(messages: Messages) -> float:
    return sum(
        count * bytes_sent(Sent(operation, "", size), max(2, len(ranks)))
        for (operation, ranks, size), count in messages.items()
    )


def _count(messages: Messages, peers: bool) -> int:
    return sum(count for (operation, _, _), count in messages.items() if (operation in PEER_TO_PEER) == peers)


if __name__ == "__main__":
    main()

"""Steps whose loss or gradient is not finite are left out alike on every rank, and the pairs are named."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nemo_bt.batching.sampling import every_pair_once, pairs_of_step
from tests.support.launches import Logs
from tests.support.layouts import PP2, SP, TP2, ZERO, checkpoint, common
from tests.support.preferences import write_random_pairs
from tests.support.runs import Run, full_tensors, metrics, nemo_bt, relative_difference

STEPS = 6
BAD_ROWS = {step: int(pairs_of_step(1234, step - 1, 16, every_pair_once(96))[0]) for step in (1, 4)}
"""Of 96 pairs and 16 a step, each is in one of the six; a row of step 1, when Adam has no state yet, and one of 4."""
LAYOUTS = {1: {"one rank": []}, 2: {"TP2 SP": [*TP2, *SP], "PP2": PP2, "DP2 distributed optimizer": ZERO}}
MODEL = ["model=llama_quickstart", "model.hidden_size=64", "model.ffn_hidden_size=160"]
STRENGTHS = ["model.loss.scale=true", "trainer.limit_val_batches=0", f"trainer.max_steps={STEPS}"]


def write_pairs(file: Path, margins: list[float]) -> None:
    """Pairs whose loss is multiplied by a margin and a weight."""
    write_random_pairs(file, len(margins), seed=3)
    table = pq.read_table(file)
    both = pa.array([math.sqrt(margin) for margin in margins], pa.float64())
    pq.write_table(table.drop(["margin"]).append_column("margin", both).append_column("weight", both), file)


def planned_runs(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    """The same six steps at some layouts; the losses of two pairs overflow."""
    data = folder / "pairs.parquet"
    write_pairs(data, [1e60 if row in BAD_ROWS.values() else 1.0 for row in range(96)])
    start = Run([*common(dataset, folder / "initial", 1), *MODEL, "trainer.max_steps=1"])
    plan = {}
    for num_ranks, named in LAYOUTS.items():
        runs = [start] if num_ranks == 1 else []
        for name, extra in named.items():
            overrides = [*common(dataset, folder / name, num_ranks), *STRENGTHS, *extra]
            overrides += [f"model.restore_from_path={checkpoint(folder / 'initial', 1)}", f"model.data.train={data}"]
            if name in ("one rank", "DP2 distributed optimizer"):
                overrides += ["exp_manager.checkpoint_callback_params.every_n_train_steps=1"]
            runs.append(Run(overrides))
        plan[num_ranks] = runs
    return plan


@pytest.mark.runs("one rank")
def test_steps_are_left_out_and_their_pairs_are_named(logs: Logs) -> None:
    shown = logs.output(1)
    for step, row in BAD_ROWS.items():
        pair = f"{logs.folder}/pairs.parquet row {row}"
        assert f"step {step} skipped: gradient norm nan; the loss is not finite of {pair}\n" in shown
    assert metrics(logs / "one rank", "step") == [2, 3, 5, 6]
    assert metrics(logs / "one rank", "train/skipped_steps") == [1, 1, 2, 2]
    assert not checkpoint(logs / "one rank", 1).exists()
    before, after = (full_tensors(checkpoint(logs / "one rank", step)) for step in (3, 4))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(tensor).all() for tensor in full_tensors(checkpoint(logs / "one rank", STEPS)).values())


@pytest.mark.parametrize("name", LAYOUTS[2])
@pytest.mark.runs("one rank")
def test_every_layout_leaves_it_out_alike(logs: Logs, name: str) -> None:
    assert metrics(logs / name, "step") == metrics(logs / "one rank", "step")
    assert metrics(logs / name, "train/loss") == pytest.approx(metrics(logs / "one rank", "train/loss"), rel=1e-5)
    expected, found = (full_tensors(checkpoint(logs / log_dir, STEPS)) for log_dir in ("one rank", name))
    assert max(relative_difference(found[key], expected[key]) for key in expected) < 1e-5


def test_a_run_whose_steps_are_all_like_that_stops(logs: Logs, dataset: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.parquet", [1e60] * 96)
    overrides = [*common(dataset, tmp_path / "log", 1), *STRENGTHS, "trainer.max_nonfinite_steps=3"]
    overrides += [f"model.data.train={tmp_path / 'pairs.parquet'}", *MODEL]
    result = nemo_bt("train", *overrides)
    assert result.returncode == 2, result.stderr
    assert "3 steps in a row were skipped (trainer.max_nonfinite_steps)" in result.stderr
    assert "and 11 more" in result.stderr
    assert "Traceback" not in result.stderr

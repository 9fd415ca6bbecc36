"""Which checkpoints stay."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_bt.keep import kept_steps, superseded
from nemo_bt.manifest import facts_of, files_of, write_manifest
from nemo_bt.run_settings import CheckpointSettings

LAST_TWO = CheckpointSettings(1, 2, 0, "val/hh/loss", "min", 0, True)
LOSSES = {10: 0.5, 20: 0.3, 30: None, 40: 0.4, 50: 0.3, 60: float("nan"), 70: 0.6, 80: 0.7}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {70, 80}),
        ({"save_top_k": 1}, {20, 70, 80}),
        ({"save_top_k": 2}, {20, 50, 70, 80}),
        ({"save_top_k": 2, "mode": "max"}, {70, 80}),
        ({"save_top_k": 3, "mode": "max"}, {10, 70, 80}),
        ({"save_top_k": 100}, {10, 20, 40, 50, 70, 80}),
        ({"keep_every_n_train_steps": 30}, {30, 60, 70, 80}),
        ({"save_last_n": 1, "save_top_k": 1, "keep_every_n_train_steps": 40}, {20, 40, 80}),
    ],
)
def test_the_newest_the_best_and_those_at_intervals_stay(changes: dict[str, int], expected: set[int]) -> None:
    assert kept_steps(LOSSES, replace(LAST_TWO, **changes)) == expected


def save(folder: Path, step: int, validated_at: int, loss: float) -> Path:
    checkpoint = folder / f"run-step{step}.nemo"
    (checkpoint / "context").mkdir(parents=True)
    facts = {"step": step, "validation": {"step": validated_at, "val/hh/loss": loss}}
    (checkpoint / "context" / "training.json").write_text(json.dumps(facts))
    write_manifest(checkpoint, facts_of(checkpoint, files_of(checkpoint)))
    return checkpoint


def test_only_what_was_validated_at_its_own_step_is_measured(tmp_path: Path) -> None:
    saved = {step: save(tmp_path, step, at, loss) for step, at, loss in ((5, 5, 0.9), (6, 5, 0.1), (7, 7, 0.8))}
    keeping = replace(LAST_TWO, save_last_n=1, save_top_k=1)
    assert superseded(tmp_path, keeping) == [saved[5], saved[6]]
    assert superseded(tmp_path, replace(keeping, save_top_k=2)) == [saved[6]]
    assert superseded(tmp_path, replace(keeping, save_last_n=0)) == []


def test_a_damaged_checkpoint_does_not_replace_a_whole_one(tmp_path: Path) -> None:
    saved = [save(tmp_path, step, step, 1.0) for step in (1, 2, 3)]
    (saved[2] / "context" / "training.json").write_text("{}")
    assert superseded(tmp_path, LAST_TWO) == []
    assert superseded(tmp_path, replace(LAST_TWO, save_last_n=1)) == [saved[0]]

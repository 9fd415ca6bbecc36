"""Which checkpoints stay."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_bt.checkpoint.manifest import facts_of, files_of, write_manifest
from nemo_bt.checkpoint.retention import kept_steps, superseded
from nemo_bt.config.run import CheckpointSettings

LAST_TWO = CheckpointSettings(every_n_train_steps=1, save_last_n=2, monitor="val/hh/loss")
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


def save(log_dir: Path, step: int) -> Path:
    checkpoint = log_dir / "checkpoints" / f"run-step{step}.nemo"
    (checkpoint / "context").mkdir(parents=True)
    (checkpoint / "context" / "training.json").write_text("{}")
    write_manifest(checkpoint, facts_of(checkpoint, files_of(checkpoint)))
    return checkpoint


def test_only_what_was_validated_at_its_own_step_is_measured(tmp_path: Path) -> None:
    saved = {step: save(tmp_path, step) for step in (5, 6, 7)}
    lines = [{"step": 5, "val/hh/loss": 0.9}, {"step": 6, "train/loss": 0.1}, {"step": 7, "val/hh/loss": 0.8}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keeping = replace(LAST_TWO, save_last_n=1, save_top_k=1)
    folder = tmp_path / "checkpoints"
    assert superseded(folder, keeping) == [saved[5], saved[6]]
    assert superseded(folder, replace(keeping, save_top_k=2)) == [saved[6]]
    assert superseded(folder, replace(keeping, save_last_n=0)) == []


def test_a_damaged_checkpoint_does_not_replace_a_whole_one(tmp_path: Path) -> None:
    saved = [save(tmp_path, step) for step in (1, 2, 3)]
    (saved[2] / "context" / "training.json").write_text("{1}")
    assert superseded(tmp_path / "checkpoints", LAST_TWO) == []
    assert superseded(tmp_path / "checkpoints", replace(LAST_TWO, save_last_n=1)) == [saved[0]]

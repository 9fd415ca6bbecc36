"""What the others' numbers are compared with."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from nemo_bt.scoring.scorer import RewardScorer
from tests.support.runs import nemo_bt

CONVERSATIONS = [random.Random(length).choices(range(4, 340), k=length) for length in (5, 60)]
TOLERANCE = 1e-5
"""Largest difference of two rewards in fp32."""


def rewards_of(folder: Path, conversations: list[Any]) -> list[float]:
    with RewardScorer.from_pretrained(folder, accelerator="cpu") as scorer:
        return scorer.score_batch(conversations)


def evaluated(model: Path, sets: dict[str, Path], output: Path) -> dict[str, Any]:
    """Results of nemo-bt evaluate by set."""
    named = [f"evaluate.input.{name}={path}" for name, path in sets.items()]
    argv = [f"model.restore_from_path={model}", f"evaluate.output={output}", "trainer.accelerator=cpu"]
    result = nemo_bt("evaluate", *argv, *named, timeout_s=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return {name: json.loads((output / name / "results.json").read_text()) for name in sets}


def scored_by(output: Path, name: str) -> list[float]:
    """Rewards of a set, in order: the chosen and then the rejected answers of each row."""
    rewards: list[float] = []
    for line in (output / name / "scored.jsonl").read_text().splitlines():
        row = json.loads(line)
        for side in ("chosen", "rejected"):
            found = row[f"reward_{side}"]
            rewards += found if isinstance(found, list) else [found]
    return rewards

"""What `nemo-bt evaluate` and `nemo-bt label` are told beside a model and its layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nemo_bt.scoring.settings import ScoreRun


@dataclass(frozen=True)
class EvaluateSettings:
    """Pairs in, results out."""

    input: str | list[str]
    """As score.input: pairs, or rows of RewardBench, RewardBench 2 or RM-Bench."""
    output: str
    """Folder: scored.jsonl, results.json and results.md."""
    kind: str
    """pairs, rewardbench, rewardbench2, rm_bench, or auto: by the rows."""


@dataclass(frozen=True)
class EvaluateRun(ScoreRun):
    """Settings of a model's layout, and of its evaluation."""

    evaluate: EvaluateSettings
    needs: ClassVar[tuple[str, ...]] = ("pair",)


@dataclass(frozen=True)
class LabelSettings:
    """Samples in, feedback to train on out."""

    input: str | list[str]
    """As score.input: rows with a prompt and a response, or with a list of completions."""
    output: str
    """A .jsonl; the scored samples stay beside it, as <output>.scored.jsonl."""
    feedback: str
    """pairwise, binary or scalar."""
    pairs: str
    """Of pairwise: random (each sample in one pair at most), max (best with worst), or min (the two that differ least,
    by min_margin or more)."""
    min_margin: float
    """Of pairwise: least difference of the rewards of a pair; equal rewards are never one."""
    threshold: str | float
    """Of binary: mean, median, or a number; a reward that reaches it is good."""
    seed: int
    """Of random pairs, and of which of two comes first."""


@dataclass(frozen=True)
class LabelRun(ScoreRun):
    """Settings of a model's layout, and of what it labels."""

    label: LabelSettings
    needs: ClassVar[tuple[str, ...]] = ("response", "completions")

"""What cannot work in scoring and what follows it, found before anything heavy is imported."""

from __future__ import annotations

from nemo_bt.config.ranges import one_of
from nemo_bt.evaluation.label import check_label
from nemo_bt.evaluation.measure import KINDS
from nemo_bt.evaluation.settings import EvaluateRun, LabelRun
from nemo_bt.pretrained.resolve import PretrainedSource
from nemo_bt.scoring.checks import check_score
from nemo_bt.scoring.parts import Parts
from nemo_bt.scoring.settings import ScoreRun

RUNS: dict[str, type[ScoreRun]] = {"score": ScoreRun, "evaluate": EvaluateRun, "label": LabelRun}
"""Command -> its settings."""


def check_run(run: ScoreRun) -> tuple[PretrainedSource, Parts]:
    """Check a run of one of these commands; see `nemo_bt.scoring.checks.check_score`."""
    if isinstance(run, EvaluateRun):
        one_of("evaluate.kind", run.evaluate.kind, KINDS)
    if isinstance(run, LabelRun):
        check_label(run.label)
    return check_score(run)

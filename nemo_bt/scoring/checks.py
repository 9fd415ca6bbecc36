"""What cannot work in scoring, found before anything heavy is imported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nemo_bt.config.ranges import in_range
from nemo_bt.errors import UserError
from nemo_bt.pretrained.resolve import PretrainedSource
from nemo_bt.scoring.parts import Parts
from nemo_bt.scoring.settings import ScoreRun
from nemo_bt.training.checks import check_settings


def check_score(run: ScoreRun) -> tuple[PretrainedSource, Parts]:
    """Check everything that needs no rows.

    Returns:
        Where the model comes from, and the output.

    Raises:
        UserError: the first combination that cannot work.
    """
    if not run.model.restore_from_path:
        raise UserError("model.restore_from_path: expected a reward model (.nemo, or a Hugging Face folder), got none.")
    size = max(run.model.global_batch_size, run.world_size)  # of training: nothing here depends on it
    pretrained = check_settings(replace(run, model=replace(run.model, global_batch_size=size)))
    if run.model.virtual_pipeline_model_parallel_size:
        raise UserError("model.virtual_pipeline_model_parallel_size: scoring has no bubble to shorten; leave it out.")
    if run.model.fp8:
        raise UserError(f"model.fp8={run.model.fp8}: rewards are computed in trainer.precision alone; leave it out.")
    in_range("score.rows_per_part", run.score.rows_per_part, "1 or more", run.score.rows_per_part >= 1)
    if not run.score.column:
        raise UserError("score.column: expected a name, got none.")
    parts = Parts(Path(run.score.output))
    if run.needs and parts.is_table:
        raise UserError(f"score.output: expected a name that ends in .jsonl, got {parts.output}.")
    if parts.output.exists() and not run.needs:
        raise UserError(f"score.output: {parts.output} is there already. Choose another name, or remove it.")
    assert pretrained is not None
    return pretrained, parts

"""Checks of scoring that run before anything heavy is imported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nemo_bt.config.score import ScoreRun
from nemo_bt.data.tokenize.text_settings import as_trained
from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import check_length
from nemo_bt.pretrained.resolve import PretrainedSource, find_pretrained, with_positions
from nemo_bt.scoring.parts import Parts
from nemo_bt.training.layout_checks import check_parallel

_Run = TypeVar("_Run", bound=ScoreRun)


def check_score(run: _Run) -> tuple[_Run, PretrainedSource, Parts]:
    """Check everything that needs no rows; give the run as its model was trained, where that comes from, the output.

    Raises:
        UserError: settings cannot work together; the first such case is named.
    """
    if not run.model.restore_from_path:
        raise UserError("model.restore_from_path: expected a reward model (.nemo, or a Hugging Face folder), got none.")
    pretrained = with_positions(find_pretrained(run.model.restore_from_path), run.model.max_position_embeddings)
    check_length(pretrained.architecture, run.model.encoder_seq_length)
    check_parallel(run, pretrained.architecture)
    if run.model.virtual_pipeline_model_parallel_size:
        raise UserError("model.virtual_pipeline_model_parallel_size: scoring has no bubble to shorten; leave it out.")
    parts = Parts(Path(run.score.output))
    if run.needs and parts.is_table:
        raise UserError(f"score.output: expected a name that ends in .jsonl, got {parts.output}.")
    if parts.output.exists() and not run.needs:
        raise UserError(f"score.output: {parts.output} is there already. Choose another name, or remove it.")
    model = replace(run.model, data=as_trained(run.model.data, pretrained))
    return replace(run, model=model), pretrained, parts

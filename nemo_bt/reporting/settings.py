"""The run that a report is about, found and checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nemo_bt.checkpoint.find import checkpoint_to_resume, is_named_by_step, step_of
from nemo_bt.config.equations import check_validation
from nemo_bt.config.load import load_settings
from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError
from nemo_bt.observability.metrics_log import FILE as METRICS
from nemo_bt.pretrained.architecture import check_length
from nemo_bt.pretrained.resolve import PretrainedSource, find_pretrained, with_positions
from nemo_bt.reporting.evaluated import Results, read_results
from nemo_bt.training.layout_checks import check_parallel


@dataclass(frozen=True)
class ReportRun:
    """A run that is reported on.

    Args:
        settings: settings of the report: the run's with overrides, and the folder where its log is now.
        was: settings of the run as it was.
        pretrained: checkpoint whose model is looked at; None where the report has only what was logged.
        evaluated: results of nemo-bt evaluate that are shown too, by name.
    """

    settings: Settings
    was: Settings
    pretrained: PretrainedSource | None = None
    evaluated: Mapping[str, Results] = field(default_factory=dict)

    @property
    def log_dir(self) -> Path:
        """Log directory of the run."""
        return self.settings.exp_manager.log_dir

    @property
    def step(self) -> int | None:
        """Step of the checkpoint, where a run has written it."""
        path = self.pretrained.path if self.pretrained else None
        return step_of(path) if path and is_named_by_step(path) else None


def load_run(log_dir: Path, overrides: Sequence[str], results: Sequence[Path] = ()) -> ReportRun:
    """Load the run that wrote into a log directory, wherever that lies now.

    Args:
        log_dir: folder with the run's config.yaml.
        overrides: changes of it for the report: another layout, a path that has moved.
        results: folders of nemo-bt evaluate.

    Raises:
        UserError: no run has written there, or an override or a folder of results cannot be used.
    """
    for name in ("config.yaml", METRICS):
        if not (log_dir / name).exists():
            raise UserError(f"{log_dir}: expected the log directory of a run, found no {name} in it.")
    try:
        was = load_settings("config", [], str(log_dir))
    except UserError as error:
        raise UserError(f"{log_dir / 'config.yaml'}: expected the settings of a run, got: {error}") from error
    settings = load_settings("config", overrides, str(log_dir))
    model = replace(settings.model, virtual_pipeline_model_parallel_size=None)
    exp_manager = replace(settings.exp_manager, explicit_log_dir=str(log_dir))
    settings = replace(settings, exp_manager=exp_manager, model=model)
    return ReportRun(settings, was, evaluated=read_results(results))


def with_model(run: ReportRun, checkpoint: Path | None) -> ReportRun:
    """Find the checkpoint, and check that its model works at the layout.

    Args:
        run: run that `load_run` gives.
        checkpoint: checkpoint that is asked for; None is the newest whole one of the run.

    Raises:
        UserError: there is no such checkpoint, or the layout cannot be used.
    """
    check_validation(run.settings.model.data)
    if not run.settings.model.data.validation:
        return run
    folder = run.log_dir / "checkpoints"
    if checkpoint is not None and not checkpoint.exists():
        raise UserError(f"--checkpoint {checkpoint}: expected a .nemo or a Hugging Face folder, found nothing.")
    found = checkpoint or checkpoint_to_resume(folder, resume_if_exists=True)
    if found is None:
        raise UserError(f"{folder}: expected a checkpoint, found none. --without-model reports what is logged.")
    pretrained = with_positions(find_pretrained(str(found)), run.settings.model.max_position_embeddings)
    check_length(pretrained.architecture, run.settings.model.encoder_seq_length)
    check_parallel(run.settings, pretrained.architecture)
    return replace(run, pretrained=pretrained)

"""What a program or a notebook calls; `nemo_bt/__init__.py` exports it.

A job runs in this process, alone or as one of the ranks of torchrun or srun. With trainer.devices > 1 in a script it
runs on as many local ranks, each of which runs the script up to the call (`nemo_bt.launching.script`).

Every function raises UserError where settings, model, data or output cannot be used as they are.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bt.cli.job import run_command, run_job
from nemo_bt.cli.kinds import kind_of
from nemo_bt.cli.worker import own_log_dir
from nemo_bt.config.custom import describe
from nemo_bt.config.load import load_settings_of
from nemo_bt.config.model import Settings
from nemo_bt.config.plan import PlanRun
from nemo_bt.config.score import EvaluateRun, LabelRun, ScoreRun
from nemo_bt.errors import UserError
from nemo_bt.launching import local
from nemo_bt.launching.script import made_once
from nemo_bt.launching.signals import StopRequest
from nemo_bt.observability.events import telling_failure
from nemo_bt.observability.terminal import Terminal

if TYPE_CHECKING:
    from nemo_bt.losses.choose import AnyLoss
    from nemo_bt.planning.search import Planned, Rejected
    from nemo_bt.pretrained.resolve import PretrainedSource
    from nemo_bt.training.fit import Outcome


def load_settings(
    config_name: str, overrides: Sequence[str] = (), config_dir: str | None = None, kind: type[Any] | None = None
) -> Any:
    """Compose a configuration and check every value.

    Args:
        config_name: train, score, evaluate, label, plan, serve, or another file of `conf/` or of `config_dir`, without
            .yaml.
        overrides: `key=value`, as on the command line.
        config_dir: a folder with configurations of your own.
        kind: the dataclass to make; without it, the one that the name says: ScoreRun for score, Settings for a name
            that is not in the list above.

    Raises:
        UserError: a key is unknown, a value has the wrong type or is out of its range, or there is no such file.
    """
    if not isinstance(config_name, str):
        raise UserError(f"config_name: expected a name, such as train, got {type(config_name).__name__}.")
    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise UserError(f"overrides: expected a list of key=value texts, got {overrides!r}.")
    return load_settings_of(kind or kind_of(config_name), config_name, overrides, config_dir)


@made_once
def train(settings: Settings, *, loss_fn: AnyLoss | None = None, callbacks: Sequence[Any] = ()) -> Outcome:
    """Train a reward model.

    Args:
        settings: from `load_settings("train", ...)`.
        loss_fn: a loss of your own; its contract is `nemo_bt.LossFn`, or `nemo_bt.ComparisonLoss`.
        callbacks: Lightning callbacks, called after the run's own.

    Returns:
        How the run ended: steps, the last validation, and what stopped it early.
    """
    start_s = time.monotonic()
    from nemo_bt.training.checks import check_settings, pinned
    from nemo_bt.training.train import train as train_here

    _expect(settings, Settings, "train")
    _check_callbacks(callbacks)
    settings = _named(settings, loss_fn)
    request = StopRequest(settings.exp_manager.time_limit_s, local.started_here(), start_s)

    def work(terminal: Terminal, rank: int) -> Outcome:
        pretrained = check_settings(settings, loss_fn=loss_fn)
        with telling_failure(settings.exp_manager.log_dir, rank):
            return train_here(pinned(settings, pretrained), pretrained, terminal, rank, callbacks, request, loss_fn)

    outcome: Outcome = run_job(settings, settings.exp_manager.log_dir, work, within="checkpoints")
    return outcome


@made_once
def validate(settings: Settings, *, loss_fn: AnyLoss | None = None) -> dict[str, float]:
    """Validate a model without training, and give metrics by name: val/<set>/loss, val/<set>/accuracy, ...

    Args:
        settings: from `load_settings("train", ...)`, or of a run: `load_settings("config", config_dir=log_dir)`.
        loss_fn: a loss of your own, as for `train`.
    """
    from nemo_bt.training.checks import check_settings, pinned
    from nemo_bt.training.train import validate_only

    _expect(settings, Settings, "train")
    with own_log_dir(_named(settings, loss_fn)) as named:

        def work(terminal: Terminal, rank: int) -> dict[str, float]:
            pretrained = check_settings(named, trains=False, loss_fn=loss_fn)
            return validate_only(pinned(named, pretrained), pretrained, terminal, loss_fn).validation

        metrics: dict[str, float] = run_job(named, named.exp_manager.log_dir, work)
    return metrics


@made_once
def launch(settings: Settings) -> Outcome:
    """Train with trainer.devices local ranks of their own, whatever this process is: also from a notebook.

    A loss of your own is named by file (`model.loss.custom_fn`). Arguments, result and errors are those of `train`.
    """
    _expect(settings, Settings, "train")
    outcome: Outcome = run_command("train", settings)
    return outcome


@made_once
def score(settings: ScoreRun) -> Path:
    """Write the rows of score.input with their rewards to score.output, and give that file."""
    _expect(settings, ScoreRun, "score")
    _scored(settings)
    return Path(settings.score.output)


@made_once
def evaluate(settings: EvaluateRun) -> dict[str, Any]:
    """Score pairs or a benchmark, measure the accuracy, and give the contents of results.json."""
    from nemo_bt.evaluation.command import evaluate as measure
    from nemo_bt.evaluation.leaderboard import write_leaderboard

    _expect(settings, EvaluateRun, "evaluate")
    if isinstance(settings.evaluate.input, dict):
        raise UserError(
            f"evaluate.input: expected one set, got {', '.join(settings.evaluate.input)}. Call it for each."
        )

    def finish(run: EvaluateRun, pretrained: PretrainedSource, terminal: Terminal) -> None:
        results = measure(run, pretrained.given, terminal, [*pretrained.architecture.attributes])
        write_leaderboard(run, pretrained, results, terminal)

    _scored(settings, finish)
    results: dict[str, Any] = json.loads((Path(settings.evaluate.output) / "results.json").read_text())
    return results


@made_once
def label(settings: LabelRun) -> Path:
    """Score samples, write feedback to train on, and give its file."""
    from nemo_bt.evaluation.label import check_label
    from nemo_bt.evaluation.label import label as write_feedback

    _expect(settings, LabelRun, "label")
    check_label(settings.label)
    _scored(settings, lambda run, _, terminal: write_feedback(run, terminal))
    return Path(settings.label.output)


@made_once
def report(log_dir: str | Path, overrides: Sequence[str] = (), checkpoint: str | Path | None = None) -> Path:
    """Write a page about a run and its model, and give the page's file.

    Args:
        log_dir: the run's log directory.
        overrides: changes to its config.yaml for the report: a layout, say.
        checkpoint: the one whose model is looked at; the newest of the run, if none is named.
    """
    from nemo_bt.reporting.command import write_report
    from nemo_bt.reporting.settings import load_run, with_model

    run = with_model(load_run(Path(log_dir), overrides), Path(checkpoint) if checkpoint else None)
    folder = Path(log_dir) / "report"
    run_job(run.settings, folder, lambda terminal, rank: write_report(run, terminal, rank))
    return folder / "report.html"


@made_once
def plan(settings: PlanRun) -> list[Planned | Rejected]:
    """Count memory and time of every layout on a cluster."""
    from nemo_bt.planning.command import plan as try_layouts

    _expect(settings, PlanRun, "plan")
    return try_layouts(settings, Terminal(sys.stdout))


def _scored(given: ScoreRun, finish: Callable[[Any, PretrainedSource, Terminal], Any] | None = None) -> None:
    """Score every row, and do what follows on rank 0 with the run, its model and the terminal."""
    from nemo_bt.scoring.checks import check_score
    from nemo_bt.scoring.command import score as score_here

    run, pretrained, parts = check_score(given)

    def work(terminal: Terminal, rank: int) -> bool:
        request = StopRequest(limit_s=None, ends_on_sigterm=local.started_here())
        is_done = score_here(run, pretrained, parts, terminal, rank, request)
        if is_done and rank == 0 and finish:
            finish(run, pretrained, terminal)
        return is_done

    if not run_job(run, parts.folder, work):
        raise KeyboardInterrupt(f"scoring was stopped; the same call goes on from {parts.folder}")


def _named(settings: Settings, loss_fn: AnyLoss | None) -> Settings:
    """Write down which loss a run has, so that it cannot go on with another."""
    if loss_fn is None:
        return settings
    loss = replace(settings.model.loss, custom_fn=describe(loss_fn))
    return replace(settings, model=replace(settings.model, loss=loss))


def _check_callbacks(callbacks: Any) -> None:
    if callbacks != ():
        from lightning.pytorch import Callback

        if not isinstance(callbacks, Sequence) or not all(isinstance(one, Callback) for one in callbacks):
            raise UserError(f"callbacks: expected a list of lightning.pytorch.Callback objects, got {callbacks!r}.")


def _expect(settings: Any, kind: type[Any], name: str) -> None:
    if type(settings) is not kind:
        raise UserError(
            f'expected settings from nemo_bt.load_settings("{name}", [...]), got {type(settings).__name__}.'
        )

"""A checked Settings -> a trained reward model: data first, then NeMo.

NeMo is imported inside functions: mistakes in settings and data are found before the import takes its 10 s.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_bt.checkpoint.disk_errors import naming_disk_errors
from nemo_bt.checkpoint.find import step_of
from nemo_bt.checkpoint.lock import only_run
from nemo_bt.checkpoint.same import write_data_record
from nemo_bt.config.device import check_device, runs_on_gpu
from nemo_bt.config.load import dump_settings
from nemo_bt.config.model import Settings
from nemo_bt.data.tokenize.templates import PLAIN
from nemo_bt.data.tokenize.tokenizer import keep_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.files import write_atomically
from nemo_bt.launching.signals import StopRequest, tell_stopped
from nemo_bt.losses.choose import AnyLoss
from nemo_bt.observability.events import append_event, read_events
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.time_spent import TimeSpent
from nemo_bt.pretrained.plain_checkpoint import check_plain
from nemo_bt.pretrained.resolve import PretrainedSource
from nemo_bt.training import compiler
from nemo_bt.training.ending import summarise, tell_next
from nemo_bt.training.environment import software
from nemo_bt.training.fit import Outcome, fit, validate
from nemo_bt.training.gpu_environment import set_gpu_environment
from nemo_bt.training.prepare import Prepared, prepare


def train(
    settings: Settings,
    pretrained: PretrainedSource | None,
    terminal: Terminal,
    rank: int,
    callbacks: Sequence[Any] = (),
    request: StopRequest | None = None,
    loss_fn: AnyLoss | None = None,
) -> Outcome:
    """Train on this rank, together with all others.

    Args:
        settings: settings that `nemo_bt.training.checks.check_settings` has checked.
        pretrained: the source that it returned.
        callbacks: the user's own, called after the run's.
        request: what asks the run to end early; None listens from the first step on.
        loss_fn: the user's own loss; None takes the one of the settings.

    Raises:
        UserError: the model, the tokenizer or the data cannot be used as they are.
    """
    if settings.trainer.accelerator != "cpu":
        set_gpu_environment(settings.model)  # before anything asks for GPUs
    on_gpu = runs_on_gpu(settings.trainer)
    check_device(settings, on_gpu)
    log_dir = settings.exp_manager.log_dir
    prepared = prepare(settings, pretrained, terminal)
    if on_gpu:
        compiler.check(prepared.architecture)
    resume_from = prepared.resume_from
    total_steps = prepared.total_steps
    start_step = step_of(resume_from) if resume_from else 0
    if resume_from and _is_done(settings, resume_from, total_steps, terminal):
        return Outcome(start_step, {})
    with naming_disk_errors(log_dir), only_run(log_dir) if rank == 0 else nullcontext():
        # Checkpoints take the tokenizer from rank 0.
        folder = _write_facts(settings, prepared) if rank == 0 else prepared.tokenizer_folder
        request = request or StopRequest(settings.exp_manager.time_limit_s, ends_on_sigterm=False)
        if rank == 0:
            facts: dict[str, Any] = {"step": start_step, "of_steps": total_steps, "ranks": settings.world_size}
            facts["running_s"] = round(time.monotonic() - request.start_s, 3)
            append_event(log_dir, "started", **facts, software=software())
        spent = TimeSpent(request.start_s, log_dir if rank == 0 else None)
        prepared = replace(prepared, tokenizer_folder=folder)
        outcome = fit(settings, prepared, on_gpu, terminal, rank, request, spent, callbacks, loss_fn)
        spent.tell("ended", step=outcome.step, of_steps=total_steps, stopped_by=outcome.stopped_by)
    if outcome.stopped_by:
        _tell_stopped(outcome, start_step, total_steps, terminal, rank)
    else:
        summarise(outcome.validation, prepared.sets, settings.trainer.limit_val_batches, terminal)
    terminal.line(f"checkpoint and metrics: {log_dir}")
    if not outcome.stopped_by:
        tell_next(settings, prepared.sets, terminal)
    return outcome


def validate_only(
    settings: Settings, pretrained: PretrainedSource | None, terminal: Terminal, loss_fn: AnyLoss | None = None
) -> Outcome:
    """Validate a model on this rank, together with all others.

    Raises:
        UserError: there is no set to validate on, or the model, the tokenizer or the data cannot be used as they are.
    """
    if not (settings.model.data.validation and settings.trainer.limit_val_batches):
        raise UserError("model.data.validation: expected a set to validate on, got none.")
    if settings.trainer.accelerator != "cpu":
        set_gpu_environment(settings.model)  # before anything asks for GPUs
    on_gpu = runs_on_gpu(settings.trainer)
    check_device(settings, on_gpu)
    prepared = prepare(settings, pretrained, terminal, only_validates=True)
    if on_gpu:
        compiler.check(prepared.architecture)
    outcome = validate(settings, prepared, on_gpu, terminal, loss_fn)
    summarise(outcome.validation, prepared.sets, settings.trainer.limit_val_batches, terminal)
    return outcome


def _tell_stopped(outcome: Outcome, start_step: int, total_steps: int, terminal: Terminal, rank: int) -> None:
    reason = str(outcome.stopped_by)
    if outcome.step == start_step:
        terminal.line(f"stopped by {reason} before it got further than step {start_step}")
        return
    if rank == 0:
        tell_stopped(reason)
    at = f"at step {outcome.step} of {total_steps}"
    terminal.line(f"stopped by {reason} {at} and saved; exp_manager.resume_if_exists=true goes on")


def _is_done(settings: Settings, resume_from: Path, total_steps: int, terminal: Terminal) -> bool:
    """Tell whether a run that resumes has nothing left to train, and say why.

    Raises:
        UserError: the checkpoint holds more than plain data, and is not trusted.
    """
    step = step_of(resume_from)
    if step >= total_steps:
        terminal.line(f"nothing left to train: {resume_from} is at step {step} of {total_steps}")
        return True
    if not settings.exp_manager.trust_checkpoint:
        check_plain(resume_from)
    ended_early = _ended_early(settings, step)
    if ended_early:
        terminal.line(
            f"nothing left to train: it got no better until step {step}; "
            "exp_manager.create_early_stopping_callback=false goes on"
        )
    return ended_early


def _ended_early(settings: Settings, step: int) -> bool:
    """Tell whether early stopping ended the run at this step."""
    exp = settings.exp_manager
    events = read_events(exp.log_dir) if exp.create_early_stopping_callback else []
    last = events[-1] if events else {}
    return last.get("event") == "ended" and last["stopped_by"] is None and last["step"] == step


def _write_facts(settings: Settings, prepared: Prepared) -> Path:
    """Write settings, tokenizer and what data is made from to the log directory; give the tokenizer's folder there."""
    log_dir = settings.exp_manager.log_dir
    write_atomically(log_dir / "config.yaml", dump_settings(settings))  # other ranks may be reading the old one
    new_template = settings.model.data.chat_template not in (None, PLAIN)
    keep_tokenizer(prepared.tokenizer, prepared.tokenizer_folder, log_dir / "tokenizer", new_template)
    write_data_record(log_dir / "data.json", prepared.sets)
    return log_dir / "tokenizer"

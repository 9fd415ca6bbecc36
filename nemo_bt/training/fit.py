"""What was prepared -> NeMo's Trainer, run. NeMo is imported inside functions."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nemo_bt.checkpoint.find import step_of
from nemo_bt.config.model import Settings
from nemo_bt.flops import peak_flops
from nemo_bt.launching.signals import StopRequest
from nemo_bt.losses.choose import AnyLoss
from nemo_bt.observability.events import append_event
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.time_spent import TimeSpent
from nemo_bt.observability.trackers import build_loggers, tell_start
from nemo_bt.pretrained.resolve import InitialWeights
from nemo_bt.training.attention_start import start_attention
from nemo_bt.training.environment import software
from nemo_bt.training.loading_bar import with_bar
from nemo_bt.training.nemo_import import import_nemo
from nemo_bt.training.prepare import Prepared


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        step: optimizer steps that it has behind it.
        validation: step and metrics of the last validation, by name.
        stopped_by: what ended it before its last step, with everything saved; None where nothing did.
    """

    step: int
    validation: dict[str, float]
    stopped_by: str | None = None


def fit(
    settings: Settings,
    prepared: Prepared,
    on_gpu: bool,
    terminal: Terminal,
    rank: int,
    request: StopRequest,
    spent: TimeSpent,
    callbacks: Sequence[Any],
    loss_fn: AnyLoss | None = None,
) -> Outcome:
    """Train on this rank, together with all others, from the checkpoint that was found or from the start.

    Args:
        on_gpu: whether each rank has a GPU.
        request: what asks the run to end early.
        spent: what knows where the time of this rank goes.
        callbacks: the user's own, called after the run's.
        loss_fn: the user's own loss; None takes the one of the settings.
    """
    _import_nemo(on_gpu, terminal)
    from nemo_bt.observability.metrics_log import MetricsLog
    from nemo_bt.training.callbacks import run_callbacks
    from nemo_bt.training.trainer import build_model, build_trainer

    data = _data(settings, prepared)
    attention = _tell_attention(settings, prepared, terminal) if on_gpu else {}
    if attention and rank == 0:
        append_event(settings.exp_manager.log_dir, "attention", **attention)
    log = MetricsLog(settings.exp_manager.log_dir, _loggers(settings, prepared, attention))
    around = run_callbacks(
        settings,
        data.data_sampler,
        terminal,
        log,
        request,
        spent,
        rank=rank,
        num_steps=prepared.total_steps,
        peak_flops=_peak_flops(settings, on_gpu),
        adapters=prepared.adapters,
        callbacks=callbacks,
    )
    trainer = build_trainer(settings, prepared.total_steps, on_gpu, around.ordered)
    folder = str(prepared.tokenizer_folder)
    initial = _with_bar(settings, prepared, terminal)
    model = build_model(settings, prepared.architecture, initial, folder, prepared.total_steps, on_gpu, loss_fn)
    trainer.strategy.terminal = terminal
    trainer.strategy.spent = spent
    trainer.strategy.is_trusted = settings.exp_manager.trust_checkpoint
    trainer.fit(model, data, ckpt_path=str(prepared.resume_from) if prepared.resume_from else None)
    log.close("success")
    step = trainer.global_step
    _leave()
    stopped_by = around.stop.reason if step < prepared.total_steps else None
    return Outcome(step, around.validation.record, stopped_by)


def validate(
    settings: Settings, prepared: Prepared, on_gpu: bool, terminal: Terminal, loss_fn: AnyLoss | None = None
) -> Outcome:
    """Validate on this rank, together with all others, without a step."""
    _import_nemo(on_gpu, terminal)
    from nemo_bt.observability.metrics_log import MetricsLog
    from nemo_bt.training.callbacks.validation import Validation
    from nemo_bt.training.trainer import build_model, build_trainer

    data = _data(settings, prepared)
    if on_gpu:
        _tell_attention(settings, prepared, terminal)
    loggers = build_loggers(settings.exp_manager, None, continues=True)
    tell_start(loggers, {})
    log = MetricsLog(settings.exp_manager.log_dir, loggers)
    spent = TimeSpent(time.monotonic(), None)
    validation = Validation(data.data_sampler, terminal, log, settings.trainer, spent, num_steps=1)
    trainer = build_trainer(settings, 1, on_gpu, [validation])
    folder = str(prepared.tokenizer_folder)
    initial = _with_bar(settings, prepared, terminal)
    model = build_model(settings, prepared.architecture, initial, folder, 1, on_gpu, loss_fn)
    trainer.validate(model, data, verbose=False)
    log.close("success")
    _leave()
    return Outcome(0, validation.record)


def _import_nemo(on_gpu: bool, terminal: Terminal) -> None:
    if "nemo.lightning" not in sys.modules:
        terminal.line("importing libraries, then building the model and loading its weights")
    import_nemo(on_gpu)


def _tell_attention(settings: Settings, prepared: Prepared, terminal: Terminal) -> dict[str, Any]:
    """Choose what computes attention on this GPU, say so, and give it as facts of the run."""
    model = settings.model
    found = start_attention(model.attention_backend, prepared.architecture, settings.trainer.precision)
    for warning in found.warnings:
        terminal.line(f"warning: {warning}")
    terminal.line(found.line)
    return asdict(found)


def _with_bar(settings: Settings, prepared: Prepared, terminal: Terminal) -> InitialWeights | None:
    initial = prepared.initial_weights
    return with_bar(initial, settings.model, terminal) if initial else None


def _loggers(settings: Settings, prepared: Prepared, attention: dict[str, Any]) -> list[Any]:
    """Open the trackers of the run."""
    exp = settings.exp_manager
    start_step = step_of(prepared.resume_from) if prepared.resume_from else 0
    loggers = build_loggers(exp, start_step, continues=exp.resume_if_exists)
    tell_start(loggers, asdict(settings) | {"software": software()} | ({"attention": attention} if attention else {}))
    return loggers


def _data(settings: Settings, prepared: Prepared) -> Any:
    from nemo_bt.training.steps.data_module import PairDataModule

    sets = dict(prepared.sets)
    train = sets.pop("train", None)
    pad_id, num_attributes = prepared.tokenizer.pad_token_id, len(prepared.architecture.attributes)
    return PairDataModule(train, sets, settings, prepared.total_steps, pad_id, num_attributes)


def _leave() -> None:
    import torch
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


def _peak_flops(settings: Settings, on_gpu: bool) -> float | None:
    """Add up the FLOP/s of all devices of the run, where they are known."""
    import torch

    of_one = settings.trainer.peak_flops_per_device
    if of_one is None and on_gpu:
        of_one = peak_flops(torch.cuda.get_device_name(), settings.trainer.precision)
    return of_one * settings.world_size if of_one else None

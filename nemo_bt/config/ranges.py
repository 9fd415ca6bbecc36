"""Numbers that have a range, and the messages for those outside of it."""

from __future__ import annotations

import math

from nemo_bt.config.fp8 import AMAX_ALGORITHMS, FORMATS, RECIPES
from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError

_METRICS = ("loss", "accuracy", "reward_chosen", "reward_rejected", "margin", "ties")
"""Of a validation set."""
ATTENTION_BACKENDS = ("auto", "fused", "flash", "local")


def check_choices(settings: Settings) -> None:
    """Check what device, precision and optimizer a run names.

    Raises:
        UserError: the first that there is not.
    """
    one_of("trainer.accelerator", settings.trainer.accelerator, ("auto", "gpu", "cpu"))
    one_of("trainer.precision", settings.trainer.precision, ("32", "bf16-mixed"))
    if settings.model.fp8 is not None:
        one_of("model.fp8", settings.model.fp8, FORMATS)
    one_of("model.fp8_recipe", settings.model.fp8_recipe, tuple(RECIPES))
    one_of("model.fp8_amax_compute_algo", settings.model.fp8_amax_compute_algo, AMAX_ALGORITHMS)
    one_of("model.attention_backend", settings.model.attention_backend, ATTENTION_BACKENDS)
    one_of("model.optim.name", settings.model.optim.name, ("adam", "distributed_fused_adam"))
    saving = settings.exp_manager.checkpoint_callback_params
    stopping = settings.exp_manager.early_stopping_callback_params
    one_of("exp_manager.checkpoint_callback_params.mode", saving.mode, ("min", "max"))
    one_of("exp_manager.early_stopping_callback_params.mode", stopping.mode, ("min", "max"))
    if saving.save_top_k:
        _check_metric("exp_manager.checkpoint_callback_params.monitor", saving.monitor, settings)
    if settings.exp_manager.create_early_stopping_callback:
        _check_metric("exp_manager.early_stopping_callback_params.monitor", stopping.monitor, settings)
    time_limit_s(settings)


def time_limit_s(settings: Settings) -> float | None:
    """exp_manager.max_time_per_run in seconds; "00:03:50:00" is 13,800.

    Raises:
        UserError: it is not four numbers.
    """
    given = settings.exp_manager.max_time_per_run
    if given is None:
        return None
    parts = given.split(":")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise UserError(f"exp_manager.max_time_per_run: expected days:hours:minutes:seconds, got '{given}'.")
    days, hours, minutes, seconds = map(int, parts)
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _check_metric(key: str, metric: str | None, settings: Settings) -> None:
    """Check that a run with these settings has a validation metric."""
    sets = settings.model.data.validation if settings.trainer.limit_val_batches else {}
    start, name, of_set = [*str(metric).split("/", 2), "", ""][:3]
    if start != "val" or name not in sets or not (of_set in _METRICS or of_set.startswith("source/")):
        known = ", ".join(f"val/{name}/..." for name in sets) or "none, as the run does not validate"
        raise UserError(f"{key}: expected a metric of a validation set ({known}), got {metric}.")


def check_ranges(settings: Settings) -> None:
    """Check every number that has a range.

    Raises:
        UserError: the first that is outside of it.
    """
    for name, value, allowed, holds in _ranges(settings):
        in_range(name, value, allowed, math.isfinite(value) and holds)


def _ranges(settings: Settings) -> list[tuple[str, float, str, bool]]:
    """Name, value, what is allowed and whether it holds, of every number that has a range."""
    trainer, model = settings.trainer, settings.model
    saving, optim, loss = settings.exp_manager.checkpoint_callback_params, model.optim, model.loss
    stopping = settings.exp_manager.early_stopping_callback_params
    more_than_0 = {
        "trainer.devices": trainer.devices,
        "trainer.num_nodes": trainer.num_nodes,
        "trainer.max_epochs": trainer.max_epochs,
        "trainer.log_every_n_steps": trainer.log_every_n_steps,
        "trainer.max_nonfinite_steps": trainer.max_nonfinite_steps,
        "trainer.hang_timeout_s": trainer.hang_timeout_s,
        "exp_manager.early_stopping_callback_params.patience": stopping.patience,
        "trainer.val_check_interval": trainer.val_check_interval,
        "model.global_batch_size": model.global_batch_size,
        "model.encoder_seq_length": model.encoder_seq_length,
        "model.tensor_model_parallel_size": model.tensor_model_parallel_size,
        "model.pipeline_model_parallel_size": model.pipeline_model_parallel_size,
        "model.context_parallel_size": model.context_parallel_size,
        "model.expert_model_parallel_size": model.expert_model_parallel_size,
        "model.fp8_amax_history_len": model.fp8_amax_history_len,
        "model.optim.num_distributed_optimizer_instances": optim.num_distributed_optimizer_instances,
        "model.optim.lr": optim.lr,
        "model.optim.eps": optim.eps,
        "model.optim.sched.power": optim.sched.power,
    }
    at_least_0 = {
        "trainer.seed": trainer.seed,
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "trainer.limit_val_batches": trainer.limit_val_batches,
        "trainer.loss_spike_factor": trainer.loss_spike_factor,
        "exp_manager.early_stopping_callback_params.min_delta": stopping.min_delta,
        "exp_manager.checkpoint_callback_params.every_n_train_steps": saving.every_n_train_steps,
        "exp_manager.checkpoint_callback_params.save_last_n": saving.save_last_n,
        "exp_manager.checkpoint_callback_params.save_top_k": saving.save_top_k,
        "exp_manager.checkpoint_callback_params.keep_every_n_train_steps": saving.keep_every_n_train_steps,
        "model.optim.weight_decay": optim.weight_decay,
        "model.optim.sched.warmup_steps": optim.sched.warmup_steps,
        "model.moe_aux_loss_coeff": model.moe_aux_loss_coeff,
        "model.loss.center_rewards_coefficient": loss.center_rewards_coefficient,
    }
    ratio = optim.sched.warmup_ratio or 0.0
    interval, limit = trainer.val_check_interval, trainer.limit_val_batches
    return [
        *((name, value, "more than 0", value > 0) for name, value in more_than_0.items()),
        *((name, value, "0 or more", value >= 0) for name, value in at_least_0.items()),
        ("trainer.max_steps", trainer.max_steps, "1 or more, or -1", trainer.max_steps > 0 or trainer.max_steps == -1),
        ("trainer.val_check_interval", interval, "an int, or a fraction of the run", _is_count_or_share(interval)),
        ("trainer.limit_val_batches", limit, "an int, 0.0 or 1.0", isinstance(limit, int) or limit in (0.0, 1.0)),
        ("model.optim.sched.min_lr", optim.sched.min_lr, f"0 to lr={optim.lr}", 0 <= optim.sched.min_lr <= optim.lr),
        ("model.optim.sched.warmup_ratio", ratio, "[0, 1)", 0 <= ratio < 1),
        ("model.optim.sched.decay_ratio", optim.sched.decay_ratio, "(0, 1]", 0 < optim.sched.decay_ratio <= 1),
        ("model.loss.label_smoothing", loss.label_smoothing, "[0, 0.5)", 0 <= loss.label_smoothing < 0.5),
    ]


def _is_count_or_share(value: float) -> bool:
    return isinstance(value, int) or value <= 1


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check that a value is one of a few.

    Raises:
        UserError: it is not.
    """
    if value not in allowed:
        raise UserError(f"{name}: expected one of {', '.join(allowed)}, got {value}.")


def in_range(name: str, value: float | None, allowed: str, holds: bool) -> None:
    """Say what is allowed, where a number does not hold to it.

    Raises:
        UserError: it does not.
    """
    if not holds:
        raise UserError(f"{name}: expected {allowed}, got {value}.")

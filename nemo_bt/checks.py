"""Combinations that cannot work, found in milliseconds: before NeMo is imported or a process started.

Each message has the equation with its numbers and what to change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nemo_bt.errors import UserError
from nemo_bt.settings import Settings

_ARCHITECTURE = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")


def check_settings(settings: Settings) -> None:
    """Check everything that needs no data.

    Raises:
        UserError: the first combination that cannot work.
    """
    _check_values(settings)
    sizes = _architecture(settings)
    _check_layout(settings, sizes)


def vocab_rows(vocab_size: int | None, num_tokens: int) -> int:
    """Rows of the embedding: as set, or the tokenizer's size rounded up to a multiple of 128 (319 gives 384)."""
    return vocab_size or -(-num_tokens // 128) * 128


def check_model_vocabulary(settings: Settings, num_tokens: int) -> None:
    """Check that the embedding has a row for every token and divides over TP.

    Raises:
        UserError: it has too few rows, or TP does not divide them.
    """
    sizes = _architecture(settings)
    rows = sizes["vocab_size"] if settings.model.restore_from_path else settings.model.vocab_size
    rows = vocab_rows(rows, num_tokens)
    if rows < num_tokens:
        raise UserError(
            f"tokenizer has {num_tokens} tokens, embedding {rows} rows (model.vocab_size): expected at least as many "
            "rows. Raise model.vocab_size, or use the tokenizer that the model was trained with."
        )
    _divides(settings.model.tensor_model_parallel_size, "tensor_model_parallel_size", rows, "vocab_size")


def _architecture(settings: Settings) -> dict[str, Any]:
    """Sizes of the model, from the settings or from the checkpoint that they name."""
    model = settings.model
    given = {name: getattr(model, name) for name in (*_ARCHITECTURE, "vocab_size")}
    if not model.restore_from_path:
        missing = [f"model.{name}" for name in _ARCHITECTURE if given[name] is None]
        if missing:
            raise UserError(
                f"nothing to train: model.restore_from_path is not set, nor {', '.join(missing)}. Give a .nemo "
                "directory, or the architecture (for example model=llama_4x256)."
            )
        return given
    context = Path(model.restore_from_path) / "context" / "model.yaml"
    if not context.is_file():
        raise UserError(
            f"model.restore_from_path: expected a .nemo directory with context/model.yaml, found none in "
            f"{model.restore_from_path}. Give a directory that NeMo 2 or nemo_bt saved."
        )
    both = [f"model.{name}" for name, value in given.items() if value is not None]
    if both:
        raise UserError(
            f"{', '.join(both)} and model.restore_from_path are both set; the checkpoint has them: remove them."
        )
    config = yaml.safe_load(context.read_text())["config"]
    if config["num_query_groups"] is None:
        config["num_query_groups"] = config["num_attention_heads"]
    return {name: config[name] for name in given}


def _check_values(settings: Settings) -> None:
    trainer, model = settings.trainer, settings.model
    _one_of("trainer.accelerator", trainer.accelerator, ("auto", "gpu", "cpu"))
    _one_of("trainer.precision", trainer.precision, ("32", "bf16-mixed"))
    _one_of("model.optim.name", model.optim.name, ("adam", "distributed_fused_adam"))
    _one_of("model.optim.sched.name", model.optim.sched.name, ("constant", "CosineAnnealing"))
    _one_of("model.data.on_bad_pair", model.data.on_bad_pair, ("drop", "error"))
    positive = {
        "trainer.devices": trainer.devices,
        "trainer.num_nodes": trainer.num_nodes,
        "trainer.max_epochs": trainer.max_epochs,
        "trainer.log_every_n_steps": trainer.log_every_n_steps,
        "trainer.val_check_interval": trainer.val_check_interval,
        "model.global_batch_size": model.global_batch_size,
        "model.encoder_seq_length": model.encoder_seq_length,
        "model.data.tokens_per_micro_batch": model.data.tokens_per_micro_batch,
        "model.tensor_model_parallel_size": model.tensor_model_parallel_size,
        "model.pipeline_model_parallel_size": model.pipeline_model_parallel_size,
        "model.optim.lr": model.optim.lr,
    }
    for name, value in positive.items():
        if value <= 0:
            raise UserError(f"{name}: expected more than 0, got {value}.")
    if trainer.max_steps < 1 and trainer.max_steps != -1:
        raise UserError(f"trainer.max_steps: expected 1 or more, or -1 for max_epochs, got {trainer.max_steps}.")
    if isinstance(trainer.val_check_interval, float) and trainer.val_check_interval > 1:
        raise UserError(
            f"trainer.val_check_interval: a float is a fraction of the run, got {trainer.val_check_interval}. "
            "Give an int for steps."
        )
    if not 0 <= model.loss.label_smoothing < 0.5:
        raise UserError(f"model.loss.label_smoothing: expected [0, 0.5), got {model.loss.label_smoothing}.")
    if len(model.optim.betas) != 2:
        raise UserError(f"model.optim.betas: expected two numbers, got {model.optim.betas}.")
    if not model.data.train:
        raise UserError("model.data.train: expected at least one parquet file, got none.")
    if "train" in model.data.validation:
        raise UserError("model.data.validation: a set cannot be named 'train'; choose another name.")
    if not model.restore_from_path and not model.tokenizer.type:
        raise UserError("model.tokenizer.type: expected a tokenizer folder, got null and no restore_from_path.")


def _check_layout(settings: Settings, sizes: dict[str, Any]) -> None:
    model = settings.model
    tp, pp = model.tensor_model_parallel_size, model.pipeline_model_parallel_size
    if settings.world_size % (tp * pp):
        raise UserError(
            f"world size {settings.world_size} (trainer.devices={settings.trainer.devices} x trainer.num_nodes="
            f"{settings.trainer.num_nodes}) is not a multiple of {tp * pp} (tensor_model_parallel_size={tp} x "
            f"pipeline_model_parallel_size={pp}). Change one of them."
        )
    for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "hidden_size"):
        _divides(tp, "tensor_model_parallel_size", sizes[name], name)
    _divides(pp, "pipeline_model_parallel_size", sizes["num_layers"], "num_layers")
    _divides(sizes["num_query_groups"], "num_query_groups", sizes["num_attention_heads"], "num_attention_heads")
    if model.sequence_parallel and tp == 1:
        raise UserError("model.sequence_parallel=true needs model.tensor_model_parallel_size > 1, got 1.")
    if model.global_batch_size < settings.data_parallel_size:
        raise UserError(
            f"model.global_batch_size={model.global_batch_size} pairs over {settings.data_parallel_size} data-parallel "
            f"ranks leaves some without a pair. Raise it to at least {settings.data_parallel_size}."
        )


def _divides(divisor: int, divisor_name: str, number: int, name: str) -> None:
    if number % divisor:
        raise UserError(
            f"model.{name}={number} is not a multiple of model.{divisor_name}={divisor} "
            f"({number} / {divisor} = {number / divisor:.3f}). Change one of them."
        )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name}: expected one of {', '.join(allowed)}, got {value}.")

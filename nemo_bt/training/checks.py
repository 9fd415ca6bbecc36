"""Combinations that cannot work, found in milliseconds: before NeMo is imported or a process started.

Each message has the equation with its numbers and what to change.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemo_bt.checkpoint.find import checkpoint_to_resume
from nemo_bt.config.data import DataSettings, SourceSettings
from nemo_bt.config.model import ModelSettings, Settings
from nemo_bt.config.parallelism import check_layout, divides
from nemo_bt.config.ranges import check_choices, check_ranges, in_range, one_of
from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import HfConfig, complete, megatron_fields, padded_vocab, scratch_hf_config
from nemo_bt.pretrained.resolve import PretrainedSource, find_pretrained

_SIZES = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")
SCHEDULES = (
    "constant",
    "CosineAnnealing",
    "WarmupAnnealing",
    "InverseSquareRootAnnealing",
    "PolynomialDecayAnnealing",
    "WarmupHoldAnnealLinear",
    "WarmupHoldAnnealOneMinusSquareRoot",
)
_ADAPTABLE = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
_ARCHITECTURE = (*_SIZES, "layernorm_epsilon", "rotary_base", "init_method_std")


def check_settings(settings: Settings) -> PretrainedSource | None:
    """Check everything that needs no data.

    Returns:
        Where the model comes from: the checkpoint that the run resumes from, else model.restore_from_path; None for a
        new model.

    Raises:
        UserError: the first combination that cannot work.
    """
    _check_values(settings)
    exp, given = settings.exp_manager, settings.model.restore_from_path
    resume_from = checkpoint_to_resume(Path(exp.explicit_log_dir) / "checkpoints", exp.resume_if_exists)
    pretrained = find_pretrained(str(resume_from or given)) if resume_from or given else None
    hf_config = hf_config_of(settings, pretrained, num_tokens=1)
    fields = megatron_fields(hf_config, settings.model.encoder_seq_length)
    check_layout(settings, fields)
    _check_adapters(settings.model, fields)
    return pretrained


def _check_adapters(model: ModelSettings, fields: dict[str, Any]) -> None:
    one_of("model.peft.peft_scheme", str(model.peft.peft_scheme or "null"), ("null", "lora"))
    lora = model.peft.lora
    if lora is None:
        return
    start = "model.peft.lora_tuning"
    if not model.restore_from_path:
        raise UserError("model.peft.peft_scheme=lora needs a model to adapt: set model.restore_from_path.")
    allowed = dict.fromkeys(_ADAPTABLE, "")
    if fields.get("num_moe_experts"):
        allowed |= dict.fromkeys(("linear_fc1", "linear_fc2"), "experts share no adapter here")
    if fields["has_post_norms"]:
        allowed |= dict.fromkeys(("linear_proj", "linear_fc2"), "its output is normalised, so nothing could be merged")
    for name in lora.target_modules or ["nothing"]:
        if allowed.get(name, "not a layer with adapters"):
            possible = ", ".join(name for name, why in allowed.items() if not why)
            raise UserError(f"{start}.target_modules: expected some of {possible}, got {name}. {allowed.get(name, '')}")
    in_range(f"{start}.adapter_dim", lora.adapter_dim, "1 or more", lora.adapter_dim >= 1)
    in_range(f"{start}.alpha", lora.alpha, "more than 0", 0 < lora.alpha < math.inf)
    in_range(f"{start}.adapter_dropout", lora.adapter_dropout, "[0, 1)", 0 <= lora.adapter_dropout < 1)
    divides(
        model.tensor_model_parallel_size, "tensor_model_parallel_size", lora.adapter_dim, "peft.lora_tuning.adapter_dim"
    )


def check_data(data: DataSettings) -> None:
    """Check what is said about data, before any of it is read.

    Raises:
        UserError: the first value that cannot be.
    """
    if not data.train:
        raise UserError("model.data.train: expected at least one source of pairs, got none.")
    if "train" in data.validation:
        raise UserError("model.data.validation: a set cannot be named 'train'; choose another name.")
    one_of("model.data.length_policy", data.length_policy, ("drop", "truncate_prompt_left", "error"))
    for key in ("max_bad_fraction", "max_drop_fraction"):
        in_range(f"model.data.{key}", getattr(data, key), "[0, 1]", 0 <= getattr(data, key) <= 1)
    for key, value in (("tokens_per_micro_batch", data.tokens_per_micro_batch), ("num_workers", data.num_workers)):
        in_range(f"model.data.{key}", value, "1 or more", value is None or value >= 1)
    for name, sources in {"train": data.train, **data.validation}.items():
        if not sources:
            raise UserError(f"model.data.validation.{name}: expected at least one source of pairs, got none.")
        for source in sources:
            _check_source(f"model.data {name} '{source.name}'", source)


def _check_source(where: str, source: SourceSettings) -> None:
    amounts = {key: getattr(source, key) for key in ("fraction", "repeat", "count")}
    given = {key: value for key, value in amounts.items() if value is not None}
    if len(given) > 1:
        raise UserError(f"{where}: {' and '.join(given)} are both set; expected one of them at most.")
    for key, value in given.items():
        allowed = "(0, 1]" if key == "fraction" else "more than 0"
        holds = math.isfinite(value) and value > 0 and (key != "fraction" or value <= 1)
        in_range(f"{where} {key}", value, allowed, holds)
    if isinstance(source.score_key, dict) and not any(source.score_key.values()):
        raise UserError(f"{where} score_key: expected a weight other than 0, got {source.score_key}.")
    rules = source.pairs
    one_of(f"{where} pairs.mode", rules.mode, ("best_vs_worst", "best_vs_random", "all_pairs"))
    at_least_0 = {"weight": source.weight, "pairs.min_margin": rules.min_margin, "pairs.min_ratio": rules.min_ratio}
    for key, value in at_least_0.items():
        in_range(f"{where} {key}", value, "0 or more", value >= 0)
    limit = rules.max_pairs_per_prompt
    in_range(f"{where} pairs.max_pairs_per_prompt", limit, "1 or more", limit is None or limit >= 1)
    in_range(f"{where} pairs.seed", rules.seed, "0 or more", rules.seed >= 0)


def hf_config_of(settings: Settings, pretrained: PretrainedSource | None, num_tokens: int) -> HfConfig:
    """The model's configuration in Hugging Face's terms: the origin's, or a Llama of the settings' sizes.

    Args:
        settings: of the run.
        pretrained: from `check_settings`.
        num_tokens: of the tokenizer; the size of a new embedding whose size is not set.

    Raises:
        UserError: the settings say too little or too much.
    """
    model = settings.model
    given = {name: getattr(model, name) for name in (*_ARCHITECTURE, "kv_channels", "vocab_size")}
    if model.restore_from_path:
        both = [f"model.{name}" for name, value in given.items() if value is not None]
        if both:
            raise UserError(
                f"{', '.join(both)} and model.restore_from_path are both set; the checkpoint has them: remove them."
            )
    if pretrained:
        return pretrained.hf_config
    missing = [f"model.{name}" for name in _ARCHITECTURE if given[name] is None]
    if missing:
        raise UserError(
            f"nothing to train: model.restore_from_path is not set, nor {', '.join(missing)}. Give a Hugging Face "
            "folder or a .nemo, or the architecture (for example model=llama_4x256)."
        )
    for name in _SIZES:
        if given[name] < 1:
            raise UserError(f"model.{name}: expected 1 or more, got {given[name]}.")
    if model.kv_channels is None:
        divides(2 * given["num_attention_heads"], "num_attention_heads x 2", given["hidden_size"], "hidden_size")
    return scratch_hf_config(model, model.vocab_size or padded_vocab(num_tokens))


def check_vocabulary(hf_config: HfConfig, token_id: int, whose: str) -> None:
    """Check that the embedding has a row for a token that is used; tokenizers may know tokens that never are.

    Args:
        hf_config: of the model.
        token_id: the largest one.
        whose: what uses it, for the message.

    Raises:
        UserError: there is no row for it.
    """
    rows = complete(hf_config).vocab_size
    if token_id >= rows:
        raise UserError(
            f"{whose} has id {token_id}, the embedding {rows} rows (vocab_size): expected a smaller id. Use the "
            "tokenizer that the model was trained with, or for a new model raise model.vocab_size."
        )


def _check_values(settings: Settings) -> None:
    model = settings.model
    check_choices(settings)
    one_of("model.optim.sched.name", model.optim.sched.name, SCHEDULES)
    if model.optim.sched.warmup_ratio is not None and model.optim.sched.warmup_steps:
        raise UserError(
            "model.optim.sched: warmup_steps and warmup_ratio are both set; set warmup_steps=0, or no ratio."
        )
    check_ranges(settings)
    if len(model.optim.betas) != 2 or not all(0 <= beta < 1 for beta in model.optim.betas):
        raise UserError(f"model.optim.betas: expected two numbers in [0, 1), got {model.optim.betas}.")
    if "/" in settings.exp_manager.name or not settings.exp_manager.name:
        raise UserError(f"exp_manager.name: expected a file name, got '{settings.exp_manager.name}'.")
    if settings.exp_manager.create_swanlab_logger and not find_spec("swanlab"):
        raise UserError("exp_manager.create_swanlab_logger=true: install it with pip install 'nemo_bt[swanlab]'.")
    check_data(model.data)
    if not model.restore_from_path and not model.tokenizer.type:
        raise UserError("model.tokenizer.type: expected a tokenizer folder, got null and no restore_from_path.")

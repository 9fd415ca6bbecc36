"""Combinations that cannot work, found in milliseconds: before NeMo is imported or a process started.

Each message has the equation with its numbers and what to change.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from nemo_bt.checkpoint.find import checkpoint_to_resume
from nemo_bt.config.equations import check_data, check_equations, check_validation
from nemo_bt.config.model import ModelSettings, Settings
from nemo_bt.config.parallelism import divides
from nemo_bt.errors import UserError
from nemo_bt.losses.choose import AnyLoss, loss_function
from nemo_bt.pretrained.architecture import Architecture, architecture_of, check_length, padded_vocab
from nemo_bt.pretrained.attributes import head_fields, with_head
from nemo_bt.pretrained.hf_config import given_hf_config, scratch_hf_config
from nemo_bt.pretrained.resolve import PretrainedSource, find_pretrained, with_positions
from nemo_bt.training.layout_checks import check_layout

_SIZES = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")
_ARCHITECTURE = (*_SIZES, "layernorm_epsilon", "rotary_base", "init_method_std")


def check_settings(
    settings: Settings, trains: bool = True, loss_fn: AnyLoss | None = None, needs_weights: bool = True
) -> PretrainedSource | None:
    """Check everything that needs no data, and give where the model comes from.

    That is the checkpoint that the run resumes from, else model.restore_from_path; None for a new model.

    Args:
        trains: whether the run needs a training set; one that only validates has none.
        loss_fn: a loss given from Python.
        needs_weights: whether adapters need a model to adapt; a trace has none.

    Raises:
        UserError: the first combination that cannot work.
    """
    check_equations(settings)
    (check_data if trains else check_validation)(settings.model.data)
    if not settings.model.restore_from_path and not settings.model.tokenizer.type:
        raise UserError("model.tokenizer.type: expected a tokenizer folder, got null and no restore_from_path.")
    if loss_fn or settings.model.loss.custom_fn.name:
        has_soft_labels = any(source.preference_key for source in settings.model.data.train)
        loss_function(settings.model.loss, loss_fn, len(settings.model.reward_head.attributes), has_soft_labels)
    exp = settings.exp_manager
    given = settings.model.restore_from_path
    resume_from = checkpoint_to_resume(exp.log_dir / "checkpoints", exp.resume_if_exists)
    pretrained = None
    if resume_from or given:
        pretrained = with_positions(find_pretrained(str(resume_from or given)), settings.model.max_position_embeddings)
    pretrained = _with_head(settings.model, pretrained)
    architecture = run_architecture(settings, pretrained, num_tokens=1)
    if settings.model.peft.lora and needs_weights and not given:
        raise UserError("model.peft.peft_scheme=lora needs a model to adapt: set model.restore_from_path.")
    check_layout(settings, architecture)
    return pretrained


def _with_head(model: ModelSettings, pretrained: PretrainedSource | None) -> PretrainedSource | None:
    """Give the model with the head of the settings; attributes of a new one need a loss that trains them."""
    loss = model.loss
    trains = loss.kind == "regression" or loss.regression_coefficient or loss.custom_fn.name
    is_new = pretrained is None or not pretrained.architecture.attributes
    if model.reward_head.attributes and is_new and not trains:
        raise UserError(
            f"model.reward_head.attributes: model.loss.kind={loss.kind} trains no attribute. Set "
            "model.loss.kind=regression, or model.loss.regression_coefficient for both."
        )
    return pretrained and with_head(pretrained, model.reward_head)


def pinned(settings: Settings, pretrained: PretrainedSource | None) -> Settings:
    """Write down the hub's commit and the text of the loss, which all ranks take and a run goes on with."""
    model = settings.model
    own = model.loss.custom_fn
    if own.path:
        own = replace(own, source=hashlib.sha256(Path(own.path).read_bytes()).hexdigest())
    if model.restore_from_path and pretrained and pretrained.nemo_file is None:
        model = replace(model, restore_from_path=pretrained.given)
    return replace(settings, model=replace(model, loss=replace(model.loss, custom_fn=own)))


def run_architecture(settings: Settings, pretrained: PretrainedSource | None, num_tokens: int) -> Architecture:
    """Give the model of a run: the origin's, or a Llama of the settings' sizes.

    Args:
        pretrained: the source from `check_settings`.
        num_tokens: the tokenizer's size; it sizes a new embedding for which the settings name no size.

    Raises:
        UserError: the settings say too little or too much, or ask for longer sequences than it takes.
    """
    model = settings.model
    given = {name: getattr(model, name) for name in ("hf_config", *_ARCHITECTURE, "kv_channels", "vocab_size")}
    if model.restore_from_path:
        both = [f"model.{name}" for name, value in given.items() if value is not None]
        if both:
            raise UserError(
                f"{', '.join(both)} and model.restore_from_path are both set; the checkpoint has them: remove them."
            )
    if pretrained:
        check_length(pretrained.architecture, model.encoder_seq_length)
        return pretrained.architecture
    head = head_fields(model.reward_head)
    if model.hf_config:
        both = [f"model.{name}" for name, value in given.items() if value is not None and name != "hf_config"]
        if both:
            raise UserError(f"{', '.join(both)} and model.hf_config are both set; hf_config has them: remove them.")
        architecture = architecture_of(given_hf_config(model) | head)
        check_length(architecture, model.encoder_seq_length)
        return architecture
    missing = [f"model.{name}" for name in _ARCHITECTURE if given[name] is None]
    if missing:
        raise UserError(
            f"nothing to train: model.restore_from_path is not set, nor {', '.join(missing)}. Give a Hugging Face "
            "folder or a .nemo, or the architecture (for example model=llama_4x256)."
        )
    if model.kv_channels is None:
        divides(2 * given["num_attention_heads"], "num_attention_heads x 2", given["hidden_size"], "hidden_size")
    return architecture_of(scratch_hf_config(model, model.vocab_size or padded_vocab(num_tokens)) | head)


def check_vocabulary(architecture: Architecture, token_id: int, whose: str) -> None:
    """Check that the embedding has a row for a token that is used; tokenizers may know tokens that never are.

    Args:
        token_id: the largest one that is used.
        whose: what uses it, for the message.

    Raises:
        UserError: there is no row for it.
    """
    rows = architecture.vocab_size
    if token_id >= rows:
        raise UserError(
            f"{whose} has id {token_id}, the embedding {rows} rows (vocab_size): expected a smaller id. Use the "
            "tokenizer that the model was trained with, or for a new model raise model.vocab_size."
        )

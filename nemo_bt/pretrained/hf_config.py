"""Hugging Face's configurations are read, completed by transformers, and refused where no layer here computes them."""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from typing import Any

import torch

from nemo_bt.config.loss import RewardHeadSettings
from nemo_bt.config.model import ModelSettings
from nemo_bt.errors import UserError
from nemo_bt.foreign.files import read_json, reading
from nemo_bt.pretrained.families import FAMILIES
from nemo_bt.pretrained.field_types import check_field_types
from nemo_bt.pretrained.known_fields import OF_KERNELS, READ_ELSEWHERE, known_fields
from nemo_bt.pretrained.rope_parameters import with_rope_fields

HfConfig = dict[str, Any]
"""config.json of a Hugging Face folder, as it came, and what its rope_parameters say in the fields of 4.57."""

ATTRIBUTES = "reward_attributes"
"""Field of this project: the attributes that the head's rows give, each with its weight in the reward."""
HEAD_HIDDEN_SIZE = "reward_head_hidden_size"
"""Field of this project: the width of the head's hidden layer; a head without one is linear."""
_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_LARGEST = 2**24
"""Of a size: a hundred times what models have."""
_COMPUTED_ONLY_AS = {
    "attention_bias": False,
    "mlp_bias": False,
    "use_bidirectional_attention": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
"""Fields with one value that the layers compute; another would be another model."""
RAISED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
)
"""What transformers and torch raise at values of the wrong kind or size."""
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu2")
_MEND = "Take the file of the model as it was published."
_REFUSED = {"quantization_config": "use the original weights"}
_NAMES_OF_5 = {"qwen3_moe": {"num_local_experts": "num_experts"}}
"""Family -> name that transformers 5 writes -> name that 4.57 reads."""
_COMPUTES = {
    *("alibi", "attention", "attn", "bias", "clip", "expert", "experts", "multiplier", "norm", "qk", "qkv", "residual"),
    *("rope", "rotary", "scale", "scaling", "sinks", "softcap", "softcapping", "temperature", "window"),
}
"""Words in the names of fields that change what a model computes."""


def read_hf_config(file: Path) -> HfConfig:
    """Read config.json as plain data, of either transformers; its architecture is one that is supported."""
    what = "a Hugging Face configuration with model_type"
    config = read_json(file, what, _MEND)
    with reading(f"{file}: expected {what}, got ", _MEND):
        _check_family(str(config["model_type"]), str(file))
        return _with_own_names(with_rope_fields(config, str(file)), str(file))


def _with_own_names(config: HfConfig, where: str) -> HfConfig:
    """Add the names that 4.57 reads, where transformers 5 has written others."""
    added = {}
    for name, own in _NAMES_OF_5.get(config["model_type"], {}).items():
        if name in config and config.get(own, config[name]) != config[name]:
            raise UserError(
                f"{where}: {name}={config[name]} and {own}={config[own]} are one field. Take one of them out."
            )
        if name in config:
            added[own] = config[name]
    return config | added


def attribute_weights(hf_config: HfConfig, where: str = "config.json") -> dict[str, float]:
    """Read the attributes of a model's head, with their weights in the reward; none where it gives one reward.

    Raises:
        UserError: the field is something else.
    """
    found = hf_config.get(ATTRIBUTES) or {}
    is_right = isinstance(found, dict) and all(isinstance(w, int | float) and math.isfinite(w) for w in found.values())
    if not is_right or (found and not any(found.values())):
        raise UserError(f"{where}: {ATTRIBUTES}: expected a weight for each attribute, got {found}.")
    return {str(name): float(weight) for name, weight in found.items()}


def head_hidden_size(hf_config: HfConfig, where: str = "config.json") -> int | None:
    """Read the width of the hidden layer of a model's head; None where the head is linear.

    Raises:
        UserError: the field is something else.
    """
    found = hf_config.get(HEAD_HIDDEN_SIZE)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise UserError(f"{where}: {HEAD_HIDDEN_SIZE}: expected a whole number from 1, got {found!r}.")
    return found


def head_settings(hf_config: HfConfig) -> RewardHeadSettings:
    """Give the settings that ask for the head which a model has."""
    weights = attribute_weights(hf_config)
    return RewardHeadSettings(
        attributes=list(weights), weights=list(weights.values()) or None, hidden_size=head_hidden_size(hf_config)
    )


def given_hf_config(model: ModelSettings) -> HfConfig:
    """Give model.hf_config, whose every key is one of its architecture, with the positions that the settings name.

    Raises:
        UserError: a key means nothing to transformers, or the family is not supported.
    """
    from transformers import AutoConfig

    config = dict(model.hf_config or {})
    where = "model.hf_config"
    _check_family(str(config.get("model_type")), where)
    of_any = {"architectures", "head_dim", "rope_parameters"}  # read by transformers where its defaults have none
    known = set(AutoConfig.for_model(config["model_type"]).to_dict()) | of_any
    for name in config.keys() - known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(sorted(known))}."
        raise UserError(f"unknown key {where}.{name}. {hint}")
    if model.max_position_embeddings:
        config["max_position_embeddings"] = model.max_position_embeddings
    return with_rope_fields(config, where)


def _check_family(model_type: str, where: str) -> None:
    if model_type not in FAMILIES:
        raise UserError(
            f"{where}: model_type '{model_type}' is not supported. Supported: {', '.join(FAMILIES)}."
            + (" Of a Gemma 3 with vision, save the text model on its own." if model_type == "gemma3" else "")
        )


def scratch_hf_config(model: ModelSettings, vocab_size: int) -> HfConfig:
    """Describe a Llama of the settings' sizes as a Hugging Face configuration."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForSequenceClassification"],
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.kv_channels or (model.hidden_size or 0) // (model.num_attention_heads or 1),
        "rms_norm_eps": model.layernorm_epsilon,
        "rope_theta": model.rotary_base,
        "initializer_range": model.init_method_std,
        "max_position_embeddings": model.max_position_embeddings or model.encoder_seq_length,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def complete(hf_config: HfConfig) -> Any:
    """Make transformers' configuration object of `known_fields`, with its defaults where config.json is silent.

    Values that no layer here computes are refused.
    """
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for name, remedy in _REFUSED.items():
        if hf_config.get(name) is not None:
            raise UserError(f"config.json: {name} is not supported: {remedy}.")
    for name in (*_SIZES, "head_dim"):
        if isinstance(hf_config.get(name), int) and hf_config[name] > _LARGEST:  # before anything is made of that size
            raise UserError(f"config.json: {name}: expected at most {_LARGEST:,}, got {str(hf_config[name])[:40]}.")
    values = known_fields(hf_config, {*_COMPUTED_ONLY_AS, HEAD_HIDDEN_SIZE})
    check_field_types(hf_config)
    with reading("config.json: transformers refuses it: ", _MEND):
        config = AutoConfig.for_model(hf_config["model_type"], **json.loads(json.dumps(values)))
        ROPE_INIT_FUNCTIONS[rope_type(config)](config, torch.device("cpu"))
    for name in _SIZES:
        if not isinstance(getattr(config, name), int) or getattr(config, name) < 1:
            raise UserError(f"config.json: {name}: expected a whole number from 1, got {getattr(config, name)!r}.")
    activation = getattr(config, FAMILIES[hf_config["model_type"]].activation_field)
    if activation not in ACTIVATIONS:
        raise UserError(
            f"config.json: activation '{activation}' is not supported. Supported: {', '.join(ACTIVATIONS)}."
        )
    if not isinstance(norm_epsilon(config), float) or (config.pad_token_id or 0) >= config.vocab_size:
        raise UserError(
            f"config.json: expected a norm epsilon and a pad_token_id below vocab_size={config.vocab_size}, got "
            f"{norm_epsilon(config)!r} and {config.pad_token_id}."
        )
    unknown = hf_config.keys() - type(config)().to_dict().keys() - READ_ELSEWHERE
    for name in sorted(unknown - OF_KERNELS - _NAMES_OF_5.get(hf_config["model_type"], {}).keys()):
        if hf_config[name] and _COMPUTES & set(name.lower().split("_")):
            raise UserError(
                f"config.json: {name}={hf_config[name]!r} is not known to a {hf_config['model_type']} here, and its "
                "name says that it changes what the model computes. If it does not, take it out."
            )
    for name, allowed in _COMPUTED_ONLY_AS.items():
        found = getattr(config, name, allowed)
        if found not in (allowed, None):
            raise UserError(f"config.json: {name}={found} is not supported; expected {allowed}.")
    return config


def positions_of(hf_config: HfConfig) -> int | None:
    """Count the positions that a configuration gives its model, what YaRN adds included; None where it is silent."""
    named = hf_config.get("max_position_embeddings")
    scaling = hf_config.get("rope_scaling") or {}
    if named and scaling.get("rope_type", scaling.get("type")) == "yarn":
        original = scaling.get("original_max_position_embeddings") or named
        return int(max(named, original * scaling.get("factor", 1.0)))
    return named


def rope_type(config: Any) -> str:
    """Name the scaling of rotary frequencies, "default" without one; `config` is from `complete`."""
    scaling = getattr(config, "rope_scaling", None) or {}
    return str(scaling.get("rope_type", scaling.get("type", "default")))


def norm_epsilon(config: Any) -> Any:
    """Give what a norm adds to the variance, under either of its names; `config` is from `complete`."""
    return getattr(config, "rms_norm_eps", None) or getattr(config, "norm_eps", None)

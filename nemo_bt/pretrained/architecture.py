"""A Hugging Face configuration -> the same architecture in Megatron's terms.

The configuration travels with the weights as it came, field by field; what Megatron needs is derived from it here, each
time. transformers' own classes fill in what config.json leaves out and compute the rotary frequencies.
"""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

from nemo_bt.config.model import ModelSettings
from nemo_bt.errors import UserError
from nemo_bt.pretrained.families import FAMILIES
from nemo_bt.pretrained.fused import HeadShape

HfConfig = dict[str, Any]
"""config.json of a Hugging Face folder, as it came."""

_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_COMPUTED_ONLY_AS = {
    "attention_bias": False,
    "mlp_bias": False,
    "use_bidirectional_attention": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
"""Fields with one value that the layers compute; another would be another model."""
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu2")
_REFUSED = {
    "quantization_config": "use the original weights",
    "rope_parameters": "it was written by transformers 5; save it with 4.57, which has rope_theta and rope_scaling",
}
_ROPE_BY_LENGTH = ("longrope", "dynamic")


def read_hf_config(file: Path) -> HfConfig:
    """config.json as plain data.

    Raises:
        UserError: it does not read, or names an architecture that is not supported.
    """
    try:
        config = json.loads(file.read_text())
        model_type = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: expected a Hugging Face configuration with model_type, got {error!r}.") from error
    if model_type not in FAMILIES:
        raise UserError(
            f"{file}: model_type '{model_type}' is not supported. Supported: {', '.join(FAMILIES)}."
            + (" Of a Gemma 3 with vision, save the text model on its own." if model_type == "gemma3" else "")
        )
    return dict(config)


def scratch_hf_config(model: ModelSettings, vocab_size: int) -> HfConfig:
    """A Llama of the settings' sizes, as a Hugging Face configuration."""
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
        "max_position_embeddings": model.encoder_seq_length,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def complete(hf_config: HfConfig) -> Any:
    """Transformers' configuration object, with its defaults where config.json is silent.

    Raises:
        UserError: values that no layer here computes.
    """
    import torch
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = {name: value for name, value in hf_config.items() if name != "model_type"}
    try:
        config = AutoConfig.for_model(hf_config["model_type"], **json.loads(json.dumps(values)))
        ROPE_INIT_FUNCTIONS[_rope_type(config)](config, torch.device("cpu"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"config.json: transformers refuses it: {error!r}") from error
    for name in _SIZES:
        if not isinstance(getattr(config, name), int) or getattr(config, name) < 1:
            raise UserError(f"config.json: {name}: expected a whole number from 1, got {getattr(config, name)!r}.")
    activation = getattr(config, FAMILIES[hf_config["model_type"]].activation_field)
    if activation not in ACTIVATIONS:
        raise UserError(
            f"config.json: activation '{activation}' is not supported. Supported: {', '.join(ACTIVATIONS)}."
        )
    for name in _REFUSED:
        if getattr(config, name, None) is not None:
            raise UserError(f"config.json: {name} is not supported: {_REFUSED[name]}.")
    if not isinstance(_epsilon(config), float) or (config.pad_token_id or 0) >= config.vocab_size:
        raise UserError(
            f"config.json: expected a norm epsilon and a pad_token_id below vocab_size={config.vocab_size}, got "
            f"{_epsilon(config)!r} and {config.pad_token_id}."
        )
    for name, allowed in _COMPUTED_ONLY_AS.items():
        found = getattr(config, name, allowed)
        if found not in (allowed, None):
            raise UserError(f"config.json: {name}={found} is not supported; expected {allowed}.")
    return config


def megatron_fields(hf_config: HfConfig, seq_length: int) -> dict[str, Any]:
    """Fields of `nemo_bt.model.config.RewardConfig` that the configuration decides, by name.

    Args:
        hf_config: as it came.
        seq_length: longest sequence of a run, in tokens.

    Raises:
        UserError: values that no layer here computes.
    """
    family, config = FAMILIES[hf_config["model_type"]], complete(hf_config)
    if seq_length > longest_sequence(hf_config):
        raise UserError(
            f"model.encoder_seq_length={seq_length} is more than the {longest_sequence(hf_config):.0f} positions "
            f"before RoPE scaling '{_rope_type(config)}' changes its frequencies by length: a reward would depend on "
            "the other texts of its batch. Set model.encoder_seq_length to at most that."
        )
    scalar = getattr(config, "query_pre_attn_scalar", None)
    return {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_query_groups": config.num_key_value_heads,
        "kv_channels": head_shape(config).head_size,
        "layernorm_epsilon": _epsilon(config),
        "init_method_std": config.initializer_range,
        "vocab_size": padded_vocab(config.vocab_size),
        "rotary_percent": getattr(config, "partial_rotary_factor", None) or 1.0,
        "seq_length": seq_length,
        "softmax_scale": None if scalar is None else scalar**-0.5,
        "qk_layernorm": any("q_layernorm" in name for name in family.table),
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "layer_windows": _layer_windows(config, family.has_windows),
        "embedding_scale": math.sqrt(config.hidden_size) if family.scales_embedding else 1.0,
        "has_post_norms": family.has_post_norms,
        "hf_config": hf_config,
        **_expert_fields(config),
    }


def activation_name(hf_config: HfConfig) -> str:
    """The MLP's activation, by transformers' name: silu, gelu_pytorch_tanh, ..."""
    return str(getattr(complete(hf_config), FAMILIES[hf_config["model_type"]].activation_field))


def longest_sequence(hf_config: HfConfig) -> float:
    """Tokens up to which a text's RoPE frequencies do not depend on the others of its batch; mostly infinity."""
    config = complete(hf_config)
    original = getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
    return float(original) if _rope_type(config) in _ROPE_BY_LENGTH else math.inf


def head_shape(config: Any) -> HeadShape:
    """Heads of a configuration object of transformers."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return HeadShape(config.num_attention_heads, config.num_key_value_heads, size)


def padded_vocab(vocab_size: int) -> int:
    """Rows of Megatron's embedding: a multiple of 128, so that tensor parallelism divides it (32001 gives 32128)."""
    return -(-vocab_size // 128) * 128


def rope_frequencies(hf_config: HfConfig) -> tuple[list[Any], float]:
    """Inverse frequencies, by transformers' own functions.

    Returns:
        [D / 2] fp32 tensors: one for layers that see everything and, where the family has another, one for layers with
        a window; and the factor on cosine and sine.
    """
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = complete(hf_config)
    frequencies, scaling = ROPE_INIT_FUNCTIONS[_rope_type(config)](config, torch.device("cpu"))
    kinds = [frequencies.float()]
    if getattr(config, "rope_local_base_freq", None):
        local = deepcopy(config)
        local.rope_theta, local.rope_scaling = config.rope_local_base_freq, {"rope_type": "default"}
        kinds.append(ROPE_INIT_FUNCTIONS["default"](local, torch.device("cpu"))[0].float())
    return kinds, float(scaling)


def _rope_type(config: Any) -> str:
    scaling = getattr(config, "rope_scaling", None) or {}
    return str(scaling.get("rope_type", scaling.get("type", "default")))


def _epsilon(config: Any) -> Any:
    return getattr(config, "rms_norm_eps", None) or getattr(config, "norm_eps", None)


def _layer_windows(config: Any, has_windows: bool) -> list[int]:
    """Tokens that a layer's query sees, itself included; 0 is all of them."""
    num_layers, window = config.num_hidden_layers, getattr(config, "sliding_window", None)
    if not has_windows or not window:
        return [0] * num_layers
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * num_layers
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def _expert_fields(config: Any) -> dict[str, Any]:
    num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if not num_experts:
        return {}
    normalised = getattr(config, "norm_topk_prob", True)
    return {
        "num_moe_experts": num_experts,
        "moe_router_topk": config.num_experts_per_tok,
        "moe_ffn_hidden_size": getattr(config, "moe_intermediate_size", None) or config.intermediate_size,
        "moe_router_pre_softmax": not normalised,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
    }

"""The architecture of a .nemo that NeMo's own importers wrote, read as plain data from `context/model.yaml`.

NeMo itself rebuilds it from `context/io.json`, which names functions to call; here nothing is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_bt.foreign.fields import check_fields
from nemo_bt.foreign.files import read_yaml, reading
from nemo_bt.pretrained.families import FAMILIES
from nemo_bt.pretrained.field_types import LAYERS
from nemo_bt.pretrained.hf_config import HfConfig
from nemo_bt.pretrained.names import EMBEDDING
from nemo_bt.pretrained.source import TensorInfo

NEMO_MODELS = "nemo.collections.llm.gpt.model"
FIELDS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "kv_channels": "head_dim",
    "layernorm_epsilon": "rms_norm_eps",
    "init_method_std": "initializer_range",
    "rotary_base": "rope_theta",
    "seq_length": "max_position_embeddings",
    "share_embeddings_and_output_weights": "tie_word_embeddings",
}
"""NeMo's field -> Hugging Face's, where they mean the same."""


def hf_config_of_nemo_model(context: Path, weights: Callable[[], dict[str, TensorInfo]]) -> tuple[HfConfig, str]:
    """Find Hugging Face's configuration of a model that NeMo describes, and its tokenizer's folder in `context`.

    Args:
        context: the folder `context/` of the .nemo.
        weights: gives the infos of its tensors; the embedding's rows are the vocabulary.
    """
    file = context / "model.yaml"
    what = "a language model as NeMo's importers describe it"
    mend = "Convert from the Hugging Face folder instead: nemo-bt import."
    with reading(f"{file}: expected {what}, got ", mend):
        model = read_yaml(file, what, mend)
        config = model["config"]
        check_fields(config, {"num_layers": LAYERS}, str(file), mend)
        target = str(model["config"]["_target_"])
        tokenizer = str((model.get("tokenizer") or {}).get("pretrained_model_name", "tokenizer"))
        family = _family(target)
        values = {hf: config[name] for name, hf in FIELDS.items()}
        values |= _SPECIAL[family](config) if family in _SPECIAL else {}
        rows = weights()[EMBEDDING].shape[0]
        values["vocab_size"] = config.get("vocab_size") or rows
        if values["head_dim"] is None:
            values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
        if values["num_key_value_heads"] is None:
            values["num_key_value_heads"] = values["num_attention_heads"]
        return {"model_type": family, "pad_token_id": None, **values}, Path(tokenizer).name


def _family(target: str) -> str:
    """Find the family of NeMo's configuration class; sizes share a module: llama.Llama32Config1B is a llama."""
    module, _, name = target.rpartition(".")
    is_moe = "MoE" in name or "_A" in name
    for family, known in FAMILIES.items():
        known_module, known_name = known.nemo_config.split(".")
        if module == f"{NEMO_MODELS}.{known_module}" and is_moe == ("MoE" in known_name):
            return family
    raise KeyError(f"configuration {target}")


def _llama(config: dict[str, Any]) -> HfConfig:
    if "scale_factor" not in config:
        return {}
    scaling = {
        "rope_type": "llama3",
        "factor": config["scale_factor"],
        "low_freq_factor": config["low_freq_factor"],
        "high_freq_factor": config["high_freq_factor"],
        "original_max_position_embeddings": config["old_context_len"],
    }
    return {"rope_scaling": scaling}


def _window(config: dict[str, Any]) -> HfConfig:
    return {"sliding_window": config["window_size"][0] if config.get("window_size") else None}


def _gemma2(config: dict[str, Any]) -> HfConfig:
    names = ("query_pre_attn_scalar", "attn_logit_softcapping")
    return _window(config) | {name: config[name] for name in names}


def _gemma3(config: dict[str, Any]) -> HfConfig:
    local, full = config["interleaved_attn_pattern"]
    kinds = [
        "full_attention" if (layer + 1) % (local + full) == 0 else "sliding_attention"
        for layer in range(config["num_layers"])
    ]
    scale = config.get("softmax_scale")
    factor = config["rope_scaling_factor"]
    return {
        "rope_local_base_freq": config["rotary_base"][0],
        "rope_theta": config["rotary_base"][1],
        "rope_scaling": None if factor == 1.0 else {"rope_type": "linear", "factor": factor},
        "layer_types": kinds,
        "sliding_window": config["window_size"],
        "query_pre_attn_scalar": config["kv_channels"] if scale is None else round(scale**-2),
    }


def _mixtral(config: dict[str, Any]) -> HfConfig:
    return {"num_local_experts": config["num_moe_experts"], "num_experts_per_tok": config["moe_router_topk"]}


def _qwen3_moe(config: dict[str, Any]) -> HfConfig:
    return {
        "num_experts": config["num_moe_experts"],
        "num_experts_per_tok": config["moe_router_topk"],
        "moe_intermediate_size": config["moe_ffn_hidden_size"],
        "norm_topk_prob": not config["moe_router_pre_softmax"],
    }


def _nemotron(config: dict[str, Any]) -> HfConfig:
    return {"norm_eps": config["layernorm_epsilon"], "partial_rotary_factor": config["rotary_percent"]}


_SPECIAL: dict[str, Callable[[dict[str, Any]], HfConfig]] = {
    "llama": _llama,
    "mistral": _window,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "nemotron": _nemotron,
}

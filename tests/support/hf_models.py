"""Tiny Hugging Face models with random weights, one of each supported shape; transformers builds and scores them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

_SIZES = {
    "vocab_size": 350,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONG_ROPE = {"type": "longrope", "short_factor": [1.1] * 6, "long_factor": [3.0] * 6}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2

SHAPES: dict[str, dict[str, Any]] = {
    "llama2, a key per query": {"model_type": "llama", "num_key_value_heads": 4},
    "llama3.1, head size": {"model_type": "llama", "head_dim": 24, "rope_scaling": _LLAMA3_ROPE, "rope_theta": 5e5},
    "llama3.2, tied, one key": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 1},
    "mistral": {"model_type": "mistral", "head_dim": 24, "sliding_window": 20},
    "qwen2": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    "qwen2.5, yarn": {"model_type": "qwen2", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "gemma": {"model_type": "gemma", "head_dim": 32, "num_key_value_heads": 1},
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 24,
        "sliding_window": 16,
        "layer_types": _ALTERNATING,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 40,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "head_dim": 24,
        "sliding_window": 16,
        "layer_types": [*_ALTERNATING, *_ALTERNATING[:2]],
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "query_pre_attn_scalar": 30,
    },
    "phi3": {"model_type": "phi3", "sliding_window": 30},
    "phi3, longrope, partly rotary": {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "rope_scaling": _LONG_ROPE,
        "original_max_position_embeddings": 256,
    },
    "nemotron": {"model_type": "nemotron", "head_dim": 24},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3 moe": {
        "model_type": "qwen3_moe",
        "head_dim": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "norm_topk_prob": True,
    },
    "qwen3 moe, plain weights": {
        "model_type": "qwen3_moe",
        "head_dim": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "norm_topk_prob": False,
    },
}


def hf_config_of(shape: str) -> dict[str, Any]:
    """What its config.json would say."""
    return _SIZES | SHAPES[shape]


def build(shape: str, *, classifier: bool = True, seed: int = 0, **changed: Any) -> Any:
    """A model in fp32 whose norms and biases are random too; `changed` are fields of its configuration."""
    config = AutoConfig.for_model(**hf_config_of(shape) | changed, num_labels=1)
    kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    torch.manual_seed(seed)
    model = kind.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


def save(
    shape: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    classifier: bool = True,
    tokenizer: Any = None,
    **changed: Any,
) -> Path:
    """Save one as its authors would, in several shards."""
    build(shape, classifier=classifier, **changed).to(dtype).save_pretrained(folder, max_shard_size="150KB")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder

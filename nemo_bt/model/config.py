"""NeMo's GPT configuration, with what attention over families needs beyond it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from nemo.collections.llm.gpt.model.base import GPTConfig
from torch import Tensor

from nemo_bt.config.device import has_transformer_engine
from nemo_bt.foreign.put_off import put_off
from nemo_bt.model.layers import pair_stream_layer_spec
from nemo_bt.pretrained.architecture import Architecture, architecture_of, check_length
from nemo_bt.pretrained.hf_config import HfConfig


def tanh_gelu(x: Tensor) -> Tensor:
    """Give transformers' gelu_pytorch_tanh.

    NeMo's openai_gelu is TorchScript, whose first backward pass in a process rounds otherwise than all later ones: a
    resumed run would not have the losses of one that never stopped.
    """
    return F.gelu(x, approximate="tanh")


def squared_relu(x: Tensor) -> Tensor:
    """Give transformers' relu2; Megatron's own is built by torch.compile in the first step on a GPU."""
    return torch.pow(F.relu(x), 2)


_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "relu2": squared_relu,
}
_KNOWN_TO_NEMO = (
    "normalization",
    "gated_linear_unit",
    "layernorm_zero_centered_gamma",
    "add_bias_linear",
    "add_qkv_bias",
    "position_embedding_type",
)
_NEEDS_TRANSFORMER_ENGINE = (
    "apply_rope_fusion",
    "persist_layer_norm",
    "gradient_accumulation_fusion",
    "masked_softmax_fusion",
    "moe_grouped_gemm",
    "moe_permute_fusion",
)


@dataclass
class RewardConfig(GPTConfig):
    """A reward model's configuration; `reward_config` makes it."""

    hf_config: HfConfig = field(default_factory=dict)
    """Hugging Face's configuration as it came, which is written beside checkpoints."""
    layer_windows: list[int] = field(default_factory=list)
    """Per layer, tokens that a query sees, itself included; 0 is all."""
    attn_logit_softcapping: float | None = None
    """c in c * tanh(logit / c)."""
    embedding_scale: float = 1.0
    has_post_norms: bool = False
    tie: float | None = None
    """First value of the parameter of a loss with ties; None where it is not learnt."""

    @cached_property
    def architecture(self) -> Architecture:
        """What the fields come from. It is no field itself, because NeMo writes fields into every checkpoint."""
        return architecture_of(self.hf_config)


def reward_config(architecture: Architecture, seq_length: int, **fields: Any) -> RewardConfig:
    """Make the configuration of a reward model for this device.

    It has sum-and-count gradients, attention over segments, no tied LM head, and no fusion that needs Transformer
    Engine or Apex where they are not there.

    Args:
        seq_length: longest sequence, in tokens.
        **fields: other fields of Megatron's configuration.

    Raises:
        UserError: rewards of sequences of that length would depend on what shares their batch.
    """
    check_length(architecture, seq_length)
    module, name = architecture.family.nemo_config.split(".")
    with put_off():
        nemo_config = getattr(importlib.import_module(f"nemo.collections.llm.gpt.model.{module}"), name)
    on_gpu = has_transformer_engine()
    is_silu = architecture.activation == "silu"
    config = RewardConfig(
        **{name: getattr(nemo_config, name) for name in _KNOWN_TO_NEMO},
        **_megatron_fields(architecture),
        **dict.fromkeys(_NEEDS_TRANSFORMER_ENGINE, on_gpu) | fields,
        seq_length=seq_length,
        # Megatron compiles its fusions in the first step. Experts' multiplies by the router's numbers too.
        bias_activation_fusion=on_gpu and is_silu and bool(architecture.experts),
        use_te_activation_func=is_silu and not (on_gpu and architecture.experts),  # on CPUs nemo_bt.cpu.kernels.swiglu
        bias_dropout_fusion=False,  # there is no bias and no dropout: it is a sum
        transformer_layer_spec=pair_stream_layer_spec,
        share_embeddings_and_output_weights=False,
        calculate_per_token_loss=True,
        deallocate_pipeline_outputs=on_gpu,  # gloo would send what is freed already; CUDA's streams wait
        moe_token_dispatcher_type="alltoall",
        moe_router_padding_for_fp8=bool(fields.get("fp8") and architecture.experts),
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    config.architecture = architecture
    return config


def _megatron_fields(architecture: Architecture) -> dict[str, Any]:
    """Give what the architecture decides, under Megatron's names."""
    fields = {
        "hf_config": architecture.hf_config,
        "num_layers": architecture.num_layers,
        "hidden_size": architecture.hidden_size,
        "ffn_hidden_size": architecture.dense_ffn_size,
        "num_attention_heads": architecture.heads.num_heads,
        "num_query_groups": architecture.heads.num_groups,
        "kv_channels": architecture.heads.head_size,
        "layernorm_epsilon": architecture.norm_epsilon,
        "init_method_std": architecture.init_std,
        "vocab_size": architecture.padded_vocab_size,
        "rotary_percent": architecture.rotary_fraction,
        "softmax_scale": architecture.softmax_scale,
        "qk_layernorm": architecture.has_head_norms,
        "attn_logit_softcapping": architecture.softcap,
        "layer_windows": list(architecture.layer_windows),
        "embedding_scale": architecture.embedding_scale,
        "has_post_norms": architecture.family.has_post_norms,
        "activation_func": _ACTIVATIONS[architecture.activation],
    }
    if architecture.experts:
        fields |= {
            "num_moe_experts": architecture.num_experts,
            "moe_router_topk": architecture.topk,
            "moe_ffn_hidden_size": architecture.ffn_size,
            "moe_router_pre_softmax": not architecture.experts.is_normalised,
            "moe_router_dtype": "fp32",
            "moe_router_load_balancing_type": "none",
        }
    return fields

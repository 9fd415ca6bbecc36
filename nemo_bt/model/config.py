"""NeMo's GPT configuration, with what attention over families needs beyond it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from megatron.core.activations import squared_relu
from nemo.collections import llm
from nemo.collections.llm.fn.activation import openai_gelu

from nemo_bt.config.device import has_transformer_engine
from nemo_bt.errors import UserError
from nemo_bt.model.layers import pair_stream_layer_spec
from nemo_bt.pretrained.architecture import HfConfig, activation_name, megatron_fields
from nemo_bt.pretrained.families import FAMILIES

_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": openai_gelu,
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
    "bias_dropout_fusion",
    "moe_grouped_gemm",
    "moe_permute_fusion",
)


@dataclass
class RewardConfig(llm.GPTConfig):
    """A reward model's configuration; `reward_config` makes it."""

    hf_config: HfConfig = field(default_factory=dict)
    """Hugging Face's configuration as it came; exported again, and the source of the rotary frequencies."""
    layer_windows: list[int] = field(default_factory=list)
    """Per layer, tokens that a query sees, itself included; 0 is all."""
    attn_logit_softcapping: float | None = None
    """c in c * tanh(logit / c)."""
    embedding_scale: float = 1.0
    has_post_norms: bool = False


def reward_config(hf_config: HfConfig, seq_length: int, **fields: Any) -> RewardConfig:
    """The configuration of a reward model for this device.

    Sum-and-count gradients, attention over segments, no tied LM
    head, and no fusion that needs Transformer Engine or Apex where they are not there.

    Args:
        hf_config: of a supported architecture, as it came.
        seq_length: longest sequence, in tokens.
        **fields: others of Megatron's.

    Raises:
        UserError: the architecture has a part that is not supported.
    """
    module, name = FAMILIES[hf_config["model_type"]].nemo_config.split(".")
    nemo_config = getattr(importlib.import_module(f"nemo.collections.llm.gpt.model.{module}"), name)
    activation = activation_name(hf_config)
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"config.json: activation '{activation}' is not supported. Supported: {', '.join(_ACTIVATIONS)}."
        )
    on_gpu, sizes = has_transformer_engine(), megatron_fields(hf_config, seq_length)
    return RewardConfig(
        **{name: getattr(nemo_config, name) for name in _KNOWN_TO_NEMO},
        **sizes,
        **dict.fromkeys(_NEEDS_TRANSFORMER_ENGINE, on_gpu) | fields,
        activation_func=_ACTIVATIONS[activation],
        bias_activation_fusion=on_gpu and activation == "silu",  # Megatron fuses no other of them without a bias
        use_te_activation_func=not on_gpu and activation == "silu",  # cpu_kernels.swiglu
        transformer_layer_spec=pair_stream_layer_spec,
        share_embeddings_and_output_weights=False,
        calculate_per_token_loss=True,
        deallocate_pipeline_outputs=on_gpu,  # gloo would send what is freed already; CUDA's streams wait
        moe_token_dispatcher_type="alltoall",
        moe_router_padding_for_fp8=bool(fields.get("fp8") and sizes.get("num_moe_experts")),
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )

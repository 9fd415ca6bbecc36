"""Which modules a transformer layer is built from: Transformer Engine's on a GPU, torch's under the same names on CPU.

The parameter names are those of Transformer Engine either way (`self_attention.linear_qkv.layer_norm_weight`, ...),
so checkpoints serve both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.models.gpt.gpt_layer_specs import get_mlp_module_spec_for_backend
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)
from torch import Tensor

from nemo_bt.config.device import has_transformer_engine
from nemo_bt.cpu.kernels import rms_norm, swiglu
from nemo_bt.model.attention.module import RotarySelfAttention, SegmentAttention, add_nothing, keeps_only_scored_tokens
from nemo_bt.model.balance import PairStreamLayer
from nemo_bt.model.transformer_engine import Modules, transformer_engine_modules


class Norm(torch.nn.Module):
    """RMSNorm, x / sqrt(mean(x^2) + eps) * w, or LayerNorm, (x - mean(x)) / sqrt(var(x) + eps) * w + b.

    The configuration says which, and whether the parameter is w or w - 1. Under sequence parallelism each
    tensor-parallel rank sees its own tokens, so the parameters are marked for Megatron to sum their gradients
    (distributed/finalize_model_grads.py). Source: Zhang and Sennrich 2019 (arXiv 1910.07467) eq. 4; Ba et al. 2016
    (arXiv 1607.06450) eq. 4.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.zero_centered = config.layernorm_zero_centered_gamma
        self.weight = norm_parameter(config, hidden_size, 0.0 if self.zero_centered else 1.0)
        self.register_parameter("bias", None)
        if config.normalization == "LayerNorm":
            self.bias = norm_parameter(config, hidden_size, 0.0)

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise the last dimension of [..., hidden_size]."""
        return normalised(hidden, self.weight, self.bias, self.eps, self.zero_centered)


class NormColumnParallelLinear(ColumnParallelLinear):
    """Norm and the linear layer behind it as one module, as `TELayerNormColumnParallelLinear` is."""

    def __init__(self, input_size: int, output_size: int, *, config: TransformerConfig, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.eps = config.layernorm_epsilon
        self.zero_centered = config.layernorm_zero_centered_gamma
        self.return_layernorm_output = False  # adapters set it, under Transformer Engine's name
        self.layer_norm_weight = norm_parameter(config, input_size, 0.0 if self.zero_centered else 1.0)
        self.register_parameter("layer_norm_bias", None)
        if config.normalization == "LayerNorm":
            self.layer_norm_bias = norm_parameter(config, input_size, 0.0)

    def forward(
        self, hidden: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor | tuple[Tensor, Tensor], Tensor | None]:
        """Project [tokens, 1, input_size] to [tokens, 1, output_size / TP]; give the norm's output where asked for."""
        normed = normalised(hidden, self.layer_norm_weight, self.layer_norm_bias, self.eps, self.zero_centered)
        output, bias = super().forward(normed, weight, runtime_gather_output)
        return ((output, normed), bias) if self.return_layernorm_output else (output, bias)


class RowParallelLinearNorm(RowParallelLinear):
    """A linear layer and the norm of its output, as NeMo's `TERowParallelLinearLayerNorm` is (gemma2.py)."""

    def __init__(self, input_size: int, output_size: int, *, config: TransformerConfig, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.post_layernorm = Norm(config, output_size, config.layernorm_epsilon)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Project [tokens, 1, input_size / TP] to [tokens, 1, output_size] and normalise."""
        output, bias = super().forward(hidden)
        return self.post_layernorm(output), bias


class CpuSpecProvider(LocalSpecProvider):
    """Megatron's protocol for a set of modules (`BackendSpecProvider`), with Transformer Engine's names."""

    def fuse_layernorm_and_linear(self) -> bool:
        """Say that norm and linear are one module."""
        return True

    def column_parallel_layer_norm_linear(self) -> type:
        """Give the fused module."""
        return NormColumnParallelLinear

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> type:
        """Give the norm that stands alone; the configuration says which it is."""
        return Norm

    def activation_func(self) -> Any:
        """Give what is used where the configuration has `use_te_activation_func`."""
        return swiglu


def pair_stream_layer_spec(config: Any, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """Choose the layers of this pipeline stage, with attention over segments, for a `RewardConfig`."""
    return layers_of(transformer_engine_modules() if has_transformer_engine() else torch_modules(), config, vp_stage)


def torch_modules() -> Modules:
    """Give the modules of this file."""
    return Modules(CpuSpecProvider(), RowParallelLinearNorm)


def layers_of(modules: Modules, config: Any, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """Build the layers of `pair_stream_layer_spec` from given modules."""
    backend, row_parallel_norm = modules
    mlp = get_mlp_module_spec_for_backend(
        backend=backend,
        num_experts=config.num_moe_experts,
        moe_grouped_gemm=config.moe_grouped_gemm,
        use_te_activation_func=config.use_te_activation_func,
    )
    if config.has_post_norms:
        mlp.submodules.linear_fc2 = row_parallel_norm
    head_norm = backend.layer_norm(for_qk=True) if config.qk_layernorm else IdentityOp
    layer = ModuleSpec(
        module=PairStreamLayer,
        submodules=TransformerLayerSubmodules(
            self_attention=ModuleSpec(
                module=RotarySelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=backend.column_parallel_layer_norm_linear(),
                    core_attention=SegmentAttention,
                    linear_proj=row_parallel_norm if config.has_post_norms else backend.row_parallel_linear(),
                    q_layernorm=head_norm,
                    k_layernorm=head_norm,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=backend.layer_norm() if config.num_moe_experts else IdentityOp,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )
    layers = [layer] * get_num_layers_to_build(config, vp_stage=vp_stage)
    if keeps_only_scored_tokens(config, get_transformer_layer_offset(config, vp_stage=vp_stage) + len(layers)):
        layers[-1] = replace(layer, submodules=replace(layer.submodules, self_attn_bda=add_nothing))
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=backend.layer_norm())


def normalised(hidden: Tensor, weight: Tensor, bias: Tensor | None, eps: float, zero_centered: bool) -> Tensor:
    """Apply LayerNorm where there is a bias, else RMSNorm; the factor of a zero-centered parameter is 1 + weight."""
    if zero_centered:
        weight = weight + 1
    if bias is None:
        return rms_norm(hidden, weight, eps)
    return F.layer_norm(hidden, weight.shape, weight, bias, eps)


def norm_parameter(config: TransformerConfig, size: int, value: float) -> torch.nn.Parameter:
    """Make a norm's weight or bias, [size]."""
    parameter: Any = torch.nn.Parameter(torch.full((size,), value, dtype=config.params_dtype))
    parameter.sequence_parallel = config.sequence_parallel
    return parameter

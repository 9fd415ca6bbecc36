"""Which modules a transformer layer is built from: Transformer Engine's on a GPU, torch's under the same names on CPU.

The parameter names are those of Transformer Engine either way (`self_attention.linear_qkv.layer_norm_weight`, ...),
so checkpoints and NeMo's importers serve both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.models.gpt.gpt_layer_specs import get_mlp_module_spec_for_backend
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from nemo_bt.model.attention import SegmentAttention


class RMSNorm(torch.nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467) eq. 4. Under sequence parallelism each tensor-parallel rank
    sees its own tokens, so the weight is marked for Megatron to sum its gradient
    (distributed/finalize_model_grads.py).
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = _norm_weight(config, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise the last dimension of [..., hidden_size]."""
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class RMSNormColumnParallelLinear(ColumnParallelLinear):
    """RMSNorm and the linear layer behind it as one module, as `TELayerNormColumnParallelLinear` is."""

    def __init__(self, input_size: int, output_size: int, *, config: TransformerConfig, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.eps = config.layernorm_epsilon
        self.layer_norm_weight = _norm_weight(config, input_size)

    def forward(
        self, hidden: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Project [tokens, 1, input_size] to [tokens, 1, output_size / TP]."""
        normed = F.rms_norm(hidden, self.layer_norm_weight.shape, self.layer_norm_weight, self.eps)
        return super().forward(normed, weight, runtime_gather_output)


class CpuSpecProvider(LocalSpecProvider):
    """Megatron's protocol for a set of modules (`BackendSpecProvider`), with Transformer Engine's names."""

    def fuse_layernorm_and_linear(self) -> bool:
        """Norm and linear are one module."""
        return True

    def column_parallel_layer_norm_linear(self) -> type:
        """The fused module."""
        return RMSNormColumnParallelLinear

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> type:
        """The norm that stands alone: behind the last layer."""
        return RMSNorm


def has_transformer_engine() -> bool:
    """Whether layers are built from Transformer Engine: it is installed and there is a GPU to run it."""
    if not torch.cuda.is_available():
        return False
    from megatron.core.models.gpt.gpt_layer_specs import HAVE_TE

    return bool(HAVE_TE)


def pair_stream_layer_spec(config: TransformerConfig, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """Layers of this pipeline stage, with attention over segments.

    Args:
        config: of the model; normalization must be RMSNorm on CPU.
        vp_stage: virtual pipeline stage, None without one.

    Raises:
        ValueError: another normalization on CPU.
    """
    if has_transformer_engine():
        from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

        backend: Any = TESpecProvider()
    else:
        if config.normalization != "RMSNorm":
            raise ValueError(f"expected normalization RMSNorm on CPU, got {config.normalization}; use a GPU for it")
        backend = CpuSpecProvider()
    layer = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=backend.column_parallel_layer_norm_linear(),
                    core_attention=SegmentAttention,
                    linear_proj=backend.row_parallel_linear(),
                    q_layernorm=IdentityOp,
                    k_layernorm=IdentityOp,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            mlp=get_mlp_module_spec_for_backend(backend=backend),
            mlp_bda=get_bias_dropout_add,
        ),
    )
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=backend.layer_norm(rms_norm=True))


def _norm_weight(config: TransformerConfig, size: int) -> torch.nn.Parameter:
    weight = torch.nn.Parameter(torch.ones(size, dtype=config.params_dtype))
    weight.sequence_parallel = config.sequence_parallel
    return weight

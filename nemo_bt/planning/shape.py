"""Sizes of a model that its memory, traffic and time depend on."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.pretrained.architecture import HfConfig, activation_name, megatron_fields, rope_frequencies
from nemo_bt.pretrained.check import expected_tensors
from nemo_bt.pretrained.convert import megatron_infos
from nemo_bt.pretrained.names import EMBEDDING

LAYERS = "decoder.layers."
"""Start of the names of stacked tensors."""


@dataclass(frozen=True)
class ModelShape:
    """Of the whole model, before any rank takes a part.

    Args:
        tensors: shape of each tensor of a checkpoint of one layer: 1, and experts, in the first dimensions.
        num_layers: of the whole model.
        hidden_size: width, H.
        num_heads: query heads.
        head_size: D.
        query_size: heads x head size.
        key_size: key heads x head size.
        num_key_heads: key heads.
        rotated_size: of each head.
        num_rotary_kinds: sets of rotary frequencies.
        ffn_size: of one expert where there are experts.
        is_gated: the MLP has a gate.
        activation: Hugging Face's name.
        is_layer_norm: norms are LayerNorm, else RMSNorm.
        has_head_norms: query and key heads are normalised.
        has_post_norms: outputs of attention and MLP are normalised.
        num_experts: 0 without.
        topk: experts that a token chooses, 1 without experts.
    """

    tensors: dict[str, tuple[int, ...]]
    num_layers: int
    hidden_size: int
    num_heads: int
    head_size: int
    query_size: int
    key_size: int
    num_key_heads: int
    rotated_size: int
    num_rotary_kinds: int
    ffn_size: int
    is_gated: bool
    activation: str
    is_layer_norm: bool
    has_head_norms: bool
    has_post_norms: bool
    num_experts: int
    topk: int

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.tensors[EMBEDDING][0]


def model_shape(hf_config: HfConfig) -> ModelShape:
    """Of a Hugging Face configuration.

    Raises:
        UserError: values that no layer here computes.
    """
    fields = megatron_fields(hf_config, seq_length=1)
    tensors = _tensors(hf_config)
    frequencies, _ = rope_frequencies(hf_config)
    num_experts = fields.get("num_moe_experts", 0)
    ffn_size = fields["moe_ffn_hidden_size"] if num_experts else fields["ffn_hidden_size"]
    fc1 = next(shape for name, shape in tensors.items() if name.endswith("linear_fc1.weight"))
    return ModelShape(
        tensors=tensors,
        num_layers=fields["num_layers"],
        hidden_size=fields["hidden_size"],
        num_heads=fields["num_attention_heads"],
        head_size=fields["kv_channels"],
        query_size=fields["num_attention_heads"] * fields["kv_channels"],
        key_size=fields["num_query_groups"] * fields["kv_channels"],
        num_key_heads=fields["num_query_groups"],
        rotated_size=2 * len(frequencies[0]),
        num_rotary_kinds=len(frequencies),
        ffn_size=ffn_size,
        is_gated=fc1[-2] == 2 * ffn_size,
        activation=activation_name(hf_config),
        is_layer_norm=any(name.endswith("final_layernorm.bias") for name in tensors),
        has_head_norms=fields["qk_layernorm"],
        has_post_norms=fields["has_post_norms"],
        num_experts=num_experts,
        topk=fields.get("moe_router_topk", 1),
    )


def _tensors(hf_config: HfConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a model of one layer: all layers are alike, and a large model takes long to describe."""
    one_layer = hf_config | {"num_hidden_layers": 1}
    if hf_config.get("layer_types"):
        one_layer |= {"layer_types": hf_config["layer_types"][:1]}
    return {name: info.shape for name, info in megatron_infos(expected_tensors(one_layer), one_layer).items()}

"""One table per family: a tensor of a Megatron checkpoint -> the tensors of Hugging Face that make it.

Both directions of a conversion are read from here. Megatron's distributed checkpoints stack layers, and experts behind
them, in leading dimensions of one tensor; {layer} and {expert} in a Hugging Face name stand for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.pretrained.fused import COPY, GATE_UP, PACKED_QKV, QKV, Fusion

EMBEDDING = "embedding.word_embeddings.weight"
HEAD = "output_layer.weight"
"""The head, or its last layer where it has two: a row for each reward."""
HEAD_BIAS = "output_layer.bias"
HIDDEN_WEIGHT = "output_layer.hidden.weight"
HIDDEN_BIAS = "output_layer.hidden.bias"
HEADS = (HEAD, HEAD_BIAS, HIDDEN_WEIGHT, HIDDEN_BIAS)
"""Every tensor that a head may have, in the order in which Megatron registers them."""
LOG_TIE = "output_layer.log_tie"
"""Logarithm of the parameter of a loss with ties, where a run learns it; a model's rewards do not depend on it."""
HF_HEAD = "score.weight"
HF_LANGUAGE_MODEL_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Parts:
    """Names in Hugging Face's folder and how they are fused."""

    names: tuple[str, ...]
    fusion: Fusion = COPY

    @property
    def has_layers(self) -> bool:
        """The leading dimension of Megatron's tensor is the layer."""
        return "{layer}" in self.names[0]

    @property
    def has_experts(self) -> bool:
        """The dimension behind the layer is the expert."""
        return "{expert}" in self.names[0]


Table = dict[str, Parts]
"""Megatron's name in the checkpoint -> Parts."""


def _layer(megatron: str, *names: str, fusion: Fusion = COPY) -> Table:
    return {f"decoder.layers.{megatron}": Parts(tuple(f"model.layers.{{layer}}.{name}" for name in names), fusion)}


def _qkv(kind: str) -> Table:
    names = (f"self_attn.{part}_proj.{kind}" for part in "qkv")
    return _layer(f"self_attention.linear_qkv.{kind}", *names, fusion=QKV)


_EDGES: Table = {
    EMBEDDING: Parts(("model.embed_tokens.weight",)),
    "decoder.final_layernorm.weight": Parts(("model.norm.weight",)),
    HEAD: Parts((HF_HEAD,)),
}
TWO_LAYER_HEAD: Table = {
    HEAD: Parts(("score.2.weight",)),
    HEAD_BIAS: Parts(("score.2.bias",)),
    HIDDEN_WEIGHT: Parts(("score.0.weight",)),
    HIDDEN_BIAS: Parts(("score.0.bias",)),
}
"""In the place of a family's HEAD where the head has a hidden layer; the names are INF-ORM's."""
HF_HEADS = (HF_HEAD, *(parts.names[0] for parts in TWO_LAYER_HEAD.values()))
_ATTENTION = _qkv("weight") | _layer("self_attention.linear_proj.weight", "self_attn.o_proj.weight")
_ATTENTION_NORM = _layer("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight")
_QUERY_KEY_NORMS = _layer("self_attention.q_layernorm.weight", "self_attn.q_norm.weight") | _layer(
    "self_attention.k_layernorm.weight", "self_attn.k_norm.weight"
)
_MLP_NORM = _layer("mlp.linear_fc1.layer_norm_weight", "post_attention_layernorm.weight")
_DOWN = _layer("mlp.linear_fc2.weight", "mlp.down_proj.weight")
_MLP = _DOWN | _layer("mlp.linear_fc1.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", fusion=GATE_UP)
_FOUR_NORMS = (
    _ATTENTION_NORM
    | _layer("self_attention.linear_proj.post_layernorm.weight", "post_attention_layernorm.weight")
    | _layer("mlp.linear_fc1.layer_norm_weight", "pre_feedforward_layernorm.weight")
    | _layer("mlp.linear_fc2.post_layernorm.weight", "post_feedforward_layernorm.weight")
)


def _experts(block: str, gate: str, up: str, down: str) -> Table:
    expert = f"{block}.experts.{{expert}}."
    return (
        _layer("pre_mlp_layernorm.weight", "post_attention_layernorm.weight")
        | _layer("mlp.router.weight", f"{block}.gate.weight")
        | _layer(
            "mlp.experts.experts.linear_fc1.weight", f"{expert}{gate}.weight", f"{expert}{up}.weight", fusion=GATE_UP
        )
        | _layer("mlp.experts.experts.linear_fc2.weight", f"{expert}{down}.weight")
    )


LLAMA = _EDGES | _ATTENTION | _ATTENTION_NORM | _MLP | _MLP_NORM
QWEN2 = LLAMA | _qkv("bias")
QWEN3 = LLAMA | _QUERY_KEY_NORMS
GEMMA2 = _EDGES | _ATTENTION | _MLP | _FOUR_NORMS
GEMMA3 = GEMMA2 | _QUERY_KEY_NORMS
PHI3 = (
    LLAMA
    | _layer("self_attention.linear_qkv.weight", "self_attn.qkv_proj.weight", fusion=PACKED_QKV)
    | _layer("mlp.linear_fc1.weight", "mlp.gate_up_proj.weight")
)
NEMOTRON = (
    _EDGES
    | {"decoder.final_layernorm.bias": Parts(("model.norm.bias",))}
    | _ATTENTION
    | _ATTENTION_NORM
    | _layer("self_attention.linear_qkv.layer_norm_bias", "input_layernorm.bias")
    | _MLP_NORM
    | _layer("mlp.linear_fc1.layer_norm_bias", "post_attention_layernorm.bias")
    | _layer("mlp.linear_fc1.weight", "mlp.up_proj.weight")
    | _DOWN
)
_MOE = _EDGES | _ATTENTION | _ATTENTION_NORM
MIXTRAL = _MOE | _experts("block_sparse_moe", gate="w1", up="w3", down="w2")
QWEN3_MOE = _MOE | _QUERY_KEY_NORMS | _experts("mlp", gate="gate_proj", up="up_proj", down="down_proj")

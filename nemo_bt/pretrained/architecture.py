"""What a model is: one `Architecture`, made once of its Hugging Face configuration.

Weights, model, FLOPs, planner and checks read it. The configuration itself travels with the weights as it came.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.foreign.files import reading
from nemo_bt.pretrained.families import FAMILIES, Family
from nemo_bt.pretrained.fused import HeadShape
from nemo_bt.pretrained.hf_config import (
    HfConfig,
    attribute_weights,
    complete,
    head_hidden_size,
    norm_epsilon,
    rope_type,
)
from nemo_bt.pretrained.names import TWO_LAYER_HEAD, Table

_ROPE_BY_LENGTH = ("longrope", "dynamic")


@dataclass(frozen=True)
class Experts:
    """MLPs of which a token chooses some, alike in all layers."""

    num_experts: int
    topk: int
    """Experts that a token chooses."""
    is_normalised: bool
    """The weights of the chosen ones sum to 1."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """A model before any rank takes a part of it; equal to itself alone, so that it can be the key of a cache."""

    hf_config: HfConfig
    """config.json as it came: what is written beside weights again."""
    completed: Any
    """transformers' object of it, with defaults where it is silent; nobody changes it."""
    family: Family
    """What config.json does not say."""
    num_layers: int
    hidden_size: int
    """Width H of what layers hand on."""
    heads: HeadShape
    """Query heads, key heads and their size."""
    ffn_size: int
    """Width of an MLP, of one expert where there are experts."""
    dense_ffn_size: int
    """intermediate_size, under whose name Megatron wants it; some models with experts have no layer of it."""
    experts: Experts | None
    """None: each layer has one MLP."""
    vocab_size: int
    """Tokens that have a row in the embedding."""
    norm_epsilon: float
    init_std: float
    """Standard deviation of new weights."""
    activation: str
    """Activation of the MLP, by transformers' name: silu, gelu_pytorch_tanh, ..."""
    is_layer_norm: bool
    """Norms are LayerNorm, else RMSNorm."""
    has_head_norms: bool
    """Query and key heads are normalised."""
    embedding_scale: float
    """Factor on embeddings."""
    softmax_scale: float | None
    """Factor on attention logits; None: 1 / sqrt(head size)."""
    softcap: float | None
    """c in c * tanh(logit / c), of attention logits."""
    layer_windows: tuple[int, ...]
    """Per layer, tokens that a query sees, itself included; 0 is all."""
    rotary_fraction: float
    """Part of a head that is rotated."""
    rotary_frequencies: tuple[Tensor, ...]
    """[D / 2] fp32 each: for layers that see everything and, where the family has another, for layers with a window."""
    rotary_factor: float
    """Factor on cosine and sine."""
    rope_type: str
    """Name of the scaling of frequencies, "default" without one."""
    longest_tokens: float
    """Tokens up to which a text's frequencies do not depend on the others of its batch; mostly infinity."""

    @property
    def num_experts(self) -> int:
        """Number of experts, 0 without them."""
        return self.experts.num_experts if self.experts else 0

    @property
    def attributes(self) -> dict[str, float]:
        """Attributes that the head's rows give, with their weights in the reward; none where it gives one reward."""
        return attribute_weights(self.hf_config)

    @property
    def num_head_rows(self) -> int:
        """Rows of the reward head."""
        return len(self.attributes) or 1

    @property
    def head_hidden_size(self) -> int | None:
        """Width of the head's hidden layer; None where it is linear."""
        return head_hidden_size(self.hf_config)

    @property
    def table(self) -> Table:
        """The family's table of names, with this head."""
        return self.family.table | (TWO_LAYER_HEAD if self.head_hidden_size else {})

    @property
    def topk(self) -> int:
        """MLPs that a token goes through in a layer, 1 without experts."""
        return self.experts.topk if self.experts else 1

    @property
    def query_size(self) -> int:
        """Query heads x head size."""
        return self.heads.num_heads * self.heads.head_size

    @property
    def key_size(self) -> int:
        """Key heads x head size."""
        return self.heads.num_groups * self.heads.head_size

    @property
    def rotated_size(self) -> int:
        """Rotated dimensions of each head."""
        return 2 * len(self.rotary_frequencies[0])

    @property
    def num_ffn_matrices(self) -> int:
        """Matrices of an MLP: 3 with a gate, else 2."""
        return 3 if self.family.is_gated else 2

    @property
    def padded_vocab_size(self) -> int:
        """Rows of Megatron's embedding."""
        return padded_vocab(self.vocab_size)


def architecture_of(hf_config: HfConfig) -> Architecture:
    """Complete, check and describe a Hugging Face configuration; values that no layer here computes are refused."""
    with reading("config.json: expected a model that can be computed, got ", "Take the file as it was published."):
        return _described(hf_config)


def _described(hf_config: HfConfig) -> Architecture:
    family = FAMILIES[hf_config["model_type"]]
    config = complete(hf_config)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scalar = getattr(config, "query_pre_attn_scalar", None)
    kind = rope_type(config)
    original = getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
    experts = _experts(config)
    frequencies, factor = _rope_frequencies(config)
    return Architecture(
        hf_config=hf_config,
        completed=config,
        family=family,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        heads=HeadShape(config.num_attention_heads, config.num_key_value_heads, head_size),
        ffn_size=(experts and getattr(config, "moe_intermediate_size", None)) or config.intermediate_size,
        dense_ffn_size=config.intermediate_size,
        experts=experts,
        vocab_size=config.vocab_size,
        norm_epsilon=norm_epsilon(config),
        init_std=config.initializer_range,
        activation=getattr(config, family.activation_field),
        is_layer_norm=any(name.endswith("final_layernorm.bias") for name in family.table),
        has_head_norms=any("q_layernorm" in name for name in family.table),
        embedding_scale=math.sqrt(config.hidden_size) if family.scales_embedding else 1.0,
        softmax_scale=None if scalar is None else scalar**-0.5,
        softcap=getattr(config, "attn_logit_softcapping", None),
        layer_windows=_layer_windows(config, family.has_windows),
        rotary_fraction=getattr(config, "partial_rotary_factor", None) or 1.0,
        rotary_frequencies=frequencies,
        rotary_factor=factor,
        rope_type=kind,
        longest_tokens=float(original) if kind in _ROPE_BY_LENGTH else math.inf,
    )


def check_length(architecture: Architecture, seq_length: int) -> None:
    """Check that no sequence of a run, of up to `seq_length` tokens, gets a reward that depends on its batch."""
    if seq_length > architecture.longest_tokens:
        raise UserError(
            f"model.encoder_seq_length={seq_length} is more than the {architecture.longest_tokens:.0f} positions "
            f"before RoPE scaling '{architecture.rope_type}' changes its frequencies by length: a reward would depend "
            "on the other texts of its batch. Set model.encoder_seq_length to at most that."
        )


def same_rotation(one: Architecture, other: Architecture) -> bool:
    """Tell whether two models rotate queries and keys alike, at any length."""
    pairs = zip(one.rotary_frequencies, other.rotary_frequencies, strict=True)
    alike = all(torch.equal(mine, theirs) for mine, theirs in pairs)
    return alike and (one.rotary_factor, one.longest_tokens) == (other.rotary_factor, other.longest_tokens)


def padded_vocab(vocab_size: int) -> int:
    """Round up to 128 rows of Megatron's embedding, so that tensor parallelism divides them: 32001 gives 32128."""
    return -(-vocab_size // 128) * 128


def _rope_frequencies(config: Any) -> tuple[tuple[Tensor, ...], float]:
    """Ask transformers for the inverse frequencies of each kind of layer and the factor on cosine and sine."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, factor = ROPE_INIT_FUNCTIONS[rope_type(config)](config, torch.device("cpu"))
    kinds = [frequencies.float()]
    if not (torch.isfinite(kinds[0]).all() and math.isfinite(factor)):
        raise ValueError(
            f"rotary frequencies that are not finite, of rope_theta and rope_scaling {config.rope_scaling}"
        )
    if getattr(config, "rope_local_base_freq", None):
        local = deepcopy(config)
        local.rope_theta = config.rope_local_base_freq
        local.rope_scaling = {"rope_type": "default"}
        kinds.append(ROPE_INIT_FUNCTIONS["default"](local, torch.device("cpu"))[0].float())
    return tuple(kinds), float(factor)


def _layer_windows(config: Any, has_windows: bool) -> tuple[int, ...]:
    num_layers: int = config.num_hidden_layers
    window: int = getattr(config, "sliding_window", None) or 0
    if not has_windows or not window:
        return (0,) * num_layers
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * num_layers
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _experts(config: Any) -> Experts | None:
    num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if not num_experts:
        return None
    return Experts(num_experts, config.num_experts_per_tok, getattr(config, "norm_topk_prob", True))

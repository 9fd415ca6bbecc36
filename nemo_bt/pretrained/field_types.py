"""Types and ranges of the fields of Hugging Face's configurations, looked at before transformers has them.

A field out of its range would take the memory or the time of whoever reads it: transformers and Megatron make a list of
layers, a table of positions, a tensor of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_bt.errors import UserError
from nemo_bt.foreign.fields import FLAG, MAPPING, TEXT, Field, check_fields, list_of, real, whole

_MEND = "Take the file of the model as it was published."
_DEEPER = "no published model has a tenth of it"
_SIZE = whole(1, 1 << 22, _DEEPER)
_COUNT = whole(1, 1 << 14, _DEEPER)
_POSITIONS = whole(1, 1 << 40, "a text of so many tokens is nobody's")
_NUMBER = real(0.0, 1e30, "it is no number that a model computes with")
_FRACTION = real(0.0, 1.0, "it is a part of the whole")
_TOKENS = Field(
    "a token's id, or a list of some",
    lambda value: all(type(one) is int for one in (value if isinstance(value, list) else [value])),
)
_MOST_EXPERTS = 1 << 17
"""In all layers together: each has its tensors, and the largest published models have a fifth of it."""
LAYERS = whole(1, 4096, f"every layer is described and checked on its own, and {_DEEPER}")
FIELDS: dict[str, Field] = {
    "num_hidden_layers": LAYERS,
    **dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size"), _SIZE),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), _COUNT),
    **dict.fromkeys(
        ("num_local_experts", "num_experts", "num_experts_per_tok", "num_labels"), whole(0, 1 << 14, _DEEPER)
    ),
    "vocab_size": whole(1, 1 << 25, _DEEPER),
    "pad_token_id": whole(-1, 1 << 25, "it is a row of the embedding"),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id"), _TOKENS),
    **dict.fromkeys(("max_position_embeddings", "original_max_position_embeddings"), _POSITIONS),
    "sliding_window": whole(0, 1 << 40, "a text of so many tokens is nobody's"),
    "max_window_layers": whole(0, 1 << 20, _DEEPER),
    **dict.fromkeys(("rms_norm_eps", "norm_eps"), _FRACTION),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "query_pre_attn_scalar"), _NUMBER),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), _NUMBER),
    "partial_rotary_factor": _FRACTION,
    "initializer_range": real(-1e-30, 1e3, "weights so large overflow"),
    **dict.fromkeys(("tie_word_embeddings", "use_sliding_window", "norm_topk_prob", "use_cache"), FLAG),
    **dict.fromkeys(("hidden_act", "hidden_activation"), TEXT),
    **dict.fromkeys(("architectures", "layer_types"), list_of(str, "texts")),
    **dict.fromkeys(("id2label", "label2id"), MAPPING),
}
"""Field -> what it may be; null leaves it to transformers."""


def check_field_types(hf_config: Mapping[str, Any], where: str = "config.json") -> None:
    """Check the fields of a configuration that the table has.

    Raises:
        UserError: one is of another type, or outside of its range.
    """
    check_fields(hf_config, FIELDS, where, _MEND)
    layers = hf_config.get("num_hidden_layers") or 0
    for name in ("num_local_experts", "num_experts"):
        if layers * (hf_config.get(name) or 0) > _MOST_EXPERTS:
            raise UserError(
                f"{where}: {name}: expected at most {_MOST_EXPERTS:,} experts in all layers, got {layers} layers of "
                f"{hf_config[name]}. {_MEND}"
            )

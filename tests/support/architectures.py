"""Architectures that tests work out numbers of by hand."""

from typing import Any

from nemo_bt.pretrained.architecture import Architecture, architecture_of

LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def llama_like(
    layers: int, hidden: int, heads: int, groups: int, head_size: int, ffn: int, **others: Any
) -> Architecture:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "head_dim": head_size}
    sizes |= {"num_key_value_heads": groups, "intermediate_size": ffn, "vocab_size": 384}
    return architecture_of({"model_type": "llama"} | sizes | others)

"""The architectures that a reward model can have, by Hugging Face's `model_type`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_bt.pretrained import names


@dataclass(frozen=True)
class Family:
    """What Hugging Face's configuration does not say of itself."""

    nemo_config: str
    """Class below nemo.collections.llm.gpt.model that knows the norms, gates and biases."""
    table: names.Table
    has_windows: bool = False
    """Attention of some or all layers is limited to sliding_window tokens."""
    has_post_norms: bool = False
    """Outputs of attention and MLP are normalised before they are added."""
    scales_embedding: bool = False
    """Embeddings are multiplied by sqrt(hidden_size)."""
    is_gated: bool = True
    """MLPs multiply what they compute by a gate."""
    activation_field: str = "hidden_act"
    """Where Hugging Face's configuration names the MLP's activation."""


_GEMMA2: Any = {
    "has_windows": True,
    "has_post_norms": True,
    "scales_embedding": True,
    "activation_field": "hidden_activation",
}

FAMILIES = {
    "llama": Family("llama.LlamaConfig", names.LLAMA),
    "mistral": Family("mistral.MistralConfig7B", names.LLAMA, has_windows=True),
    "qwen2": Family("qwen2.Qwen2Config", names.QWEN2, has_windows=True),
    "qwen3": Family("qwen3.Qwen3Config", names.QWEN3, has_windows=True),
    "gemma": Family("gemma.GemmaConfig", names.LLAMA, scales_embedding=True),
    "gemma2": Family("gemma2.Gemma2Config", names.GEMMA2, **_GEMMA2),
    "gemma3_text": Family("gemma3.Gemma3Config", names.GEMMA3, **_GEMMA2),
    "phi3": Family("phi3mini.Phi3Config", names.PHI3, has_windows=True),
    "nemotron": Family("nemotron.NemotronConfig", names.NEMOTRON, is_gated=False),
    "mixtral": Family("mixtral.MixtralConfig", names.MIXTRAL, has_windows=True),
    "qwen3_moe": Family("qwen3.Qwen3MoEConfig", names.QWEN3_MOE, has_windows=True),
}

"""The models of conf/model have the sizes that NeMo has for them."""

from typing import Any

import pytest

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.plan import PlanRun
from nemo_bt.config.shipped import SHIPPED, choices
from nemo_bt.training.checks import run_architecture

OWN = {"llama_4x256", "llama_quickstart"}
SIZES = {
    "llama3_8b": ("llama", "Llama3Config8B"),
    "llama3_70b": ("llama", "Llama3Config70B"),
    "llama3_1_8b": ("llama", "Llama31Config8B"),
    "llama3_1_70b": ("llama", "Llama31Config70B"),
    "llama3_1_405b": ("llama", "Llama31Config405B"),
    "llama3_2_1b": ("llama", "Llama32Config1B"),
    "llama3_2_3b": ("llama", "Llama32Config3B"),
    "qwen2_5_7b": ("qwen2", "Qwen25Config7B"),
    "qwen2_5_72b": ("qwen2", "Qwen25Config72B"),
    "qwen3_8b": ("qwen3", "Qwen3Config8B"),
    "qwen3_30b_a3b": ("qwen3", "Qwen3Config30B_A3B"),
    "gemma2_27b": ("gemma2", "Gemma2Config27B"),
    "mistral_7b": ("mistral", "MistralConfig7B"),
    "mixtral_8x7b": ("mixtral", "MixtralConfig8x7B"),
}


def test_every_model_is_compared() -> None:
    assert set(choices("model", [SHIPPED])) == OWN | SIZES.keys()


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_nemos(name: str) -> None:
    from nemo.collections.llm.gpt import model as models

    module, kind = SIZES[name]
    theirs: Any = getattr(getattr(models, module), kind)  # its defaults are attributes of the class
    run = load_settings_of(PlanRun, "plan", [f"model={name}"])
    ours = run_architecture(run, None, num_tokens=1)
    assert (ours.num_layers, ours.hidden_size) == (theirs.num_layers, theirs.hidden_size)
    assert ours.dense_ffn_size == theirs.ffn_hidden_size
    heads = theirs.num_attention_heads
    assert (ours.heads.num_heads, ours.heads.num_groups) == (heads, theirs.num_query_groups or heads)
    assert ours.heads.head_size == (theirs.kv_channels or theirs.hidden_size // heads)
    assert (ours.num_experts or None, ours.topk if ours.num_experts else 2) == (
        theirs.num_moe_experts,
        theirs.moe_router_topk,
    )
    if ours.experts and theirs.moe_ffn_hidden_size:
        assert ours.ffn_size == theirs.moe_ffn_hidden_size
    assert ours.norm_epsilon == pytest.approx(theirs.layernorm_epsilon)
    base = 1 / float(ours.rotary_frequencies[0][1]) ** (ours.heads.head_size / 2)
    # Mistral's v0.3 has another base than v0.1, which NeMo has.
    assert base == pytest.approx(1e6 if name == "mistral_7b" else theirs.rotary_base, rel=1e-4)

"""A base .nemo that NeMo described: its architecture is read from plain data as NeMo's own configuration has it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.pretrained.names import EMBEDDING
from nemo_bt.pretrained.nemo_metadata import HF_CONFIG
from nemo_bt.pretrained.nemo_yaml import hf_config_of_nemo_model
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.pretrained.source import TensorInfo
from tests.support.converted import to_nemo
from tests.support.hf_models import save

SIZES = {
    "num_layers": 6,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 24,
    "vocab_size": 350,
    "seq_length": 512,
    "init_method_std": 0.03,
    "layernorm_epsilon": 1e-6,
}
UNFUSED = dict.fromkeys(
    (
        "apply_rope_fusion",
        "persist_layer_norm",
        "gradient_accumulation_fusion",
        "masked_softmax_fusion",
        "bias_activation_fusion",
        "bias_dropout_fusion",
    ),
    False,
)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama.LlamaConfig": ("llama", {"rotary_base": 5e5}),
    "llama.Llama31Config": ("llama", {"rotary_base": 5e5, "old_context_len": 128}),
    "mistral.MistralConfig7B": ("mistral", {"window_size": [32, 0]}),
    "qwen2.Qwen2Config": ("qwen2", {}),
    "qwen3.Qwen3Config": ("qwen3", {}),
    "gemma.GemmaConfig": ("gemma", {}),
    "gemma2.Gemma2Config": ("gemma2", {"window_size": (32, 0), "query_pre_attn_scalar": 40}),
    "gemma3.Gemma3Config": ("gemma3_text", {"window_size": 32, "softmax_scale": 40**-0.5, "rope_scaling_factor": 8.0}),
    "phi3mini.Phi3Config": ("phi3", {}),
    "nemotron.NemotronConfig": ("nemotron", {}),
    "mixtral.MixtralConfig": ("mixtral", {"num_moe_experts": 4}),
    "qwen3.Qwen3MoEConfig": ("qwen3_moe", {"num_moe_experts": 4, "moe_ffn_hidden_size": 40, "moe_router_topk": 2}),
}
WINDOWS = {"mistral": [32] * 6, "gemma2": [32, 0] * 3, "gemma3_text": [32] * 5 + [0]}


def described(name: str, folder: Path) -> Any:
    """NeMo's configuration, and model.yaml as NeMo writes it for the model that has it."""
    import importlib

    import nemo.lightning as nl
    from nemo.collections import llm
    from nemo.lightning.io.pl import TrainerContext

    module, kind = name.split(".")
    config_class = getattr(importlib.import_module(f"nemo.collections.llm.gpt.model.{module}"), kind)
    fields = SIZES | UNFUSED | {"moe_permute_fusion": False, "moe_grouped_gemm": False} | FAMILIES[name][1]
    if name == "gemma3.Gemma3Config":  # a field that only its sizes declare
        config_class = importlib.import_module("nemo.collections.llm.gpt.model.gemma3").Gemma3Config1B
    config = config_class(**fields)
    trainer = nl.Trainer(devices=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    # A class of its own: NeMo changes the __init__ of what is built here, and RewardModel's is that of GPTModel.
    context = TrainerContext(model=llm.LlamaModel(config), trainer=trainer, extra={})
    context.io_dump(folder, yaml_attrs=["model"])
    return config


@pytest.mark.parametrize("name", FAMILIES)
def test_architecture_is_the_one_that_nemo_describes(name: str, one_rank: None, tmp_path: Path) -> None:
    from nemo_bt.model.config import reward_config

    config = described(name, tmp_path)
    hf_config, _ = hf_config_of_nemo_model(tmp_path, lambda: {EMBEDDING: TensorInfo((350, 64), torch.float32)})
    family = FAMILIES[name][0]
    found = reward_config(architecture_of(hf_config), 512)
    assert hf_config["model_type"] == family
    for field in set(SIZES) - {"vocab_size"} | {"rotary_percent", "num_moe_experts", "moe_router_topk"}:
        assert getattr(found, field) == pytest.approx(getattr(config, field)), field
    assert hf_config["vocab_size"] == 350
    assert found.layer_windows == WINDOWS.get(family, [0] * 6)
    assert found.attn_logit_softcapping == (50.0 if family == "gemma2" else None)
    assert found.softmax_scale == (pytest.approx(1 / math.sqrt(40)) if "query_pre_attn_scalar" in hf_config else None)


def test_scaled_frequencies_are_those_of_nemo(one_rank: None, tmp_path: Path) -> None:
    from nemo.collections.llm.gpt.model.llama import apply_rope_scaling

    described("llama.Llama31Config", tmp_path)
    hf_config, _ = hf_config_of_nemo_model(tmp_path, lambda: {EMBEDDING: TensorInfo((350, 64), torch.float32)})
    plain = 1 / 5e5 ** (torch.arange(0, 24, 2) / 24)
    expected = apply_rope_scaling(plain, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, old_context_len=128)
    architecture = architecture_of(hf_config)
    torch.testing.assert_close(architecture.rotary_frequencies[0], expected)
    assert (len(architecture.rotary_frequencies), architecture.rotary_factor) == (1, 1.0)


@pytest.fixture
def base(tmp_path: Path, one_rank: None) -> Path:
    """A base .nemo: NeMo's description, and weights with a language model's head in a padded vocabulary."""
    pretrained = find_pretrained(str(save("llama3.1, head size", tmp_path / "hf")))
    nemo = to_nemo(pretrained, open_weights(pretrained, 0), tmp_path / "base.nemo")
    (nemo / "context" / HF_CONFIG).unlink()
    fields = {"num_layers": 4, "_target_": "nemo.collections.llm.gpt.model.llama.LlamaConfig", "rotary_base": 5e5}
    described("llama.LlamaConfig", nemo / "context")
    file = nemo / "context" / "model.yaml"
    model = yaml.safe_load(file.read_text())
    model["tokenizer"] = {"pretrained_model_name": "nemo_tokenizer"}
    file.write_text(yaml.safe_dump(model | {"config": model["config"] | fields}))
    return nemo


def test_a_base_checkpoint_is_found_with_its_tokenizer(base: Path) -> None:
    pretrained = find_pretrained(str(base))
    assert pretrained.hf_config["rope_theta"] == 5e5
    assert pretrained.tokenizer == base / "context" / "nemo_tokenizer"
    assert open_weights(pretrained, 0).has_head


@pytest.mark.parametrize(
    "config",
    [None, {}, {"_target_": "nemo.collections.llm.gpt.model.starcoder.StarcoderConfig"}, {"_target_": "os.system"}],
)
def test_descriptions_of_something_else_are_refused(base: Path, config: Any) -> None:
    file = base / "context" / "model.yaml"
    file.write_text(yaml.safe_dump({"config": config}))
    with pytest.raises(UserError, match="expected a language model as NeMo's importers describe it"):
        find_pretrained(str(base))


def test_nemo_loads_the_context_that_the_converter_writes(one_rank: None, tmp_path: Path, tokenizer: Any) -> None:
    from nemo.lightning import io

    from converters.megatron import _describe

    pretrained = find_pretrained(str(save("gemma3", tmp_path / "hf")))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    _describe(tmp_path / "context", pretrained.architecture, tmp_path / "tokenizer")
    model = io.load_context(tmp_path / "context").model
    assert type(model).__name__ == "RewardModel"
    assert model.config.hf_config == pretrained.hf_config
    assert model.config.layer_windows == [16, 0] * 3
    assert model.tokenizer.vocab_size == 347

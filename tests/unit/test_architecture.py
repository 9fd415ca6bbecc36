"""An Architecture says what transformers' configuration and model say, and is made once for a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from nemo_bt.config.load import load_settings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.pretrained.families import FAMILIES
from nemo_bt.pretrained.hf_config import HfConfig
from nemo_bt.training.checks import check_settings
from nemo_bt.training.prepare import prepare
from tests.support.hf_models import SHAPES, hf_config_of, save


@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_are_those_that_transformers_has(shape: str) -> None:
    given = hf_config_of(shape)
    found, config = architecture_of(given), AutoConfig.for_model(**given)
    assert found.hf_config is given
    assert found.family is FAMILIES[given["model_type"]]
    assert found.num_layers == len(found.layer_windows) == config.num_hidden_layers
    assert found.hidden_size == config.hidden_size
    assert found.dense_ffn_size == config.intermediate_size
    assert (found.heads.num_heads, found.heads.num_groups) == (config.num_attention_heads, config.num_key_value_heads)
    assert (found.vocab_size, found.padded_vocab_size) == (config.vocab_size, 384)
    assert found.norm_epsilon == getattr(config, "rms_norm_eps", None) or config.norm_eps
    assert found.init_std == config.initializer_range
    assert found.embedding_scale == (config.hidden_size**0.5 if "gemma" in config.model_type else 1.0)
    assert found.num_experts == given.get("num_local_experts", given.get("num_experts", 0))
    assert found.topk == given.get("num_experts_per_tok", 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_tables_say_is_what_transformers_builds(shape: str) -> None:
    """Head size, gate, norms and rotary frequencies are read from the model itself; nothing is allocated."""
    given = hf_config_of(shape)
    found = architecture_of(given)
    with torch.device("meta"):
        model: Any = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**given))
    attention, layer = model.model.layers[0].self_attn, model.model.layers[0]
    names = dict(layer.named_parameters())
    assert attention.o_proj.weight.shape == (found.hidden_size, found.query_size)
    assert found.has_head_norms == hasattr(attention, "q_norm")
    assert found.family.has_post_norms == hasattr(layer, "post_feedforward_layernorm")
    assert found.is_layer_norm == ("bias" in dict(model.model.norm.named_parameters()))
    usual = found.heads.head_size**-0.5
    assert (found.softmax_scale or usual) == getattr(attention, "scaling", usual)  # Nemotron's leaves it to torch
    width = found.ffn_size * found.hidden_size
    mlp = sum(weight.numel() for name, weight in names.items() if _is_mlp(name))
    assert mlp == max(found.num_experts, 1) * found.num_ffn_matrices * width
    assert found.rotated_size == 2 * len(model.model.rotary_emb.inv_freq)
    assert len(found.rotary_frequencies) == 1 + hasattr(model.model, "rotary_emb_local")
    windows = [getattr(one.self_attn, "sliding_window", None) or 0 for one in model.model.layers]
    if found.family.has_windows and any(windows):
        assert list(found.layer_windows) == windows


def _is_mlp(name: str) -> bool:
    return name.startswith(("mlp.", "block_sparse_moe.")) and not name.endswith(".gate.weight")


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch) -> list[HfConfig]:
    """Configurations that transformers is asked for."""
    asked, original = [], AutoConfig.for_model

    def for_model(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(AutoConfig, "for_model", for_model)
    return asked


@pytest.mark.parametrize("overrides", [[], ["model.peft.peft_scheme=lora"]], ids=["all weights", "adapters"])
def test_it_is_made_once_for_a_run(
    overrides: list[str], dataset: Path, tmp_path: Path, completed: list[HfConfig]
) -> None:
    folder = save("gemma", tmp_path / "hf", tokenizer=AutoTokenizer.from_pretrained(dataset / "tokenizer"))
    completed.clear()
    needed = [f"exp_manager.explicit_log_dir={tmp_path / 'run'}", f"model.data.train={dataset / 'random.parquet'}"]
    needed += [f"model.data.cache_dir={tmp_path / 'cache'}", "model.encoder_seq_length=256"]
    settings = load_settings("train", [*needed, f"model.restore_from_path={folder}", *overrides])
    pretrained = check_settings(settings)
    prepared = prepare(settings, pretrained, Terminal(None))
    assert pretrained
    assert prepared.architecture is pretrained.architecture
    assert len(completed) == 1

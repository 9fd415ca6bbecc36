"""A config.json of transformers 5 is the model that the one of 4.57 is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import Architecture, architecture_of, same_rotation
from nemo_bt.pretrained.check import with_labels
from nemo_bt.pretrained.hf_config import read_hf_config
from nemo_bt.pretrained.rope_parameters import rope_parameters_of
from tests.support.hf_models import hf_config_of, save

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"short_factor": [1.1] * 6, "long_factor": [3.0] * 6}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "default": ("qwen2", {"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
    "llama3": (
        "llama3.1, head size",
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3},
    ),
    "yarn": (
        "qwen2",
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 512},
    ),
    "linear": (
        "llama2, a key per query",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    ),
    "two bases": (
        "gemma3",
        {
            "rope_theta": 2e6,
            "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "full_attention": {"rope_type": "linear", "rope_theta": 2e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    ),
    "longrope": (
        "phi3, longrope, partly rotary",
        {},
        {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 256,
            **LONG,
        },
    ),
    "partly rotary": (
        "nemotron",
        {"rope_theta": 3e4, "partial_rotary_factor": 0.25},
        {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.25},
    ),
}
OLD = (
    "rope_theta",
    "rope_scaling",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)
ORIGINAL = "original_max_position_embeddings"


def read(config: dict[str, Any], folder: Path) -> Architecture:
    (folder / "config.json").write_text(json.dumps(config))
    return architecture_of(read_hf_config(folder / "config.json"))


@pytest.mark.parametrize("case", CASES)
def test_both_versions_are_one_model(case: str, tmp_path: Path) -> None:
    """Also where 4.57 has saved the newer one again, with defaults of its own beside what it does not know."""
    shape, old, new = CASES[case]
    expected = read(hf_config_of(shape) | old, tmp_path)
    config = {name: value for name, value in hf_config_of(shape).items() if name not in (*OLD, ORIGINAL)}
    found = read(config | {"rope_parameters": new, "dtype": "float32"}, tmp_path)
    kind = config.pop("model_type")
    AutoConfig.for_model(kind, **config, rope_parameters=new).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    again = read(saved, tmp_path)
    assert saved["rope_theta"] == (1e6 if kind == "gemma3_text" else 1e4)
    filled = {"original_max_position_embeddings": 512} if case == "yarn" else {}
    assert filled | rope_parameters_of(expected.completed) == new
    for other in (found, again):
        assert same_rotation(other, expected)
        assert (other.rotary_fraction, other.rope_type) == (expected.rotary_fraction, expected.rope_type)
        assert other.hf_config["rope_parameters"] == new
        assert read(other.hf_config, tmp_path).hf_config == other.hf_config


@pytest.mark.parametrize("case", ["default", "two bases"])
@torch.no_grad()
def test_transformers_gives_the_same_reward(case: str, tmp_path: Path) -> None:
    """Its own model of the configuration that is read, as the converters compare with."""
    shape, old, new = CASES[case]
    folder = save(shape, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    rewards = []
    for changed in (old, dict.fromkeys(OLD) | {"rope_parameters": new}):
        named = {name: value for name, value in (config | changed).items() if value is not None}
        architecture = read(named, folder)
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, config=with_labels(architecture))
        rewards.append(model(torch.arange(1, 60)[None]).logits[0, 0])
        own: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
        rewards.append(own(torch.arange(1, 60)[None]).logits[0, 0])
    old_ours, old_own, new_ours, new_own = rewards
    assert old_ours == old_own == pytest.approx(new_ours, abs=1e-6)
    assert abs(new_own - new_ours) > 1e-4  # read alone, it passes over rope_parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (3, "rope_parameters: expected rope_type and rope_theta, got 3"),
        ({"full_attention": {"rope_theta": 1e4}, "chunked_attention": {}}, "expected rope_type and rope_theta"),
        (
            {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e5}},
            "rope_parameters of sliding_attention: expected those of full_attention, or for gemma3_text",
        ),
    ],
)
def test_what_has_no_older_name_is_refused(parameters: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(hf_config_of("qwen2") | {"rope_parameters": parameters}, tmp_path)


def test_experts_are_counted_by_the_name_of_either_version(tmp_path: Path) -> None:
    """transformers 5 writes num_local_experts, which 4.57 passes over: it would have its default of 128."""
    config = hf_config_of("qwen3 moe")
    new = {name: value for name, value in config.items() if name != "num_experts"}
    found = read(new | {"num_local_experts": 4}, tmp_path)
    assert (found.num_experts, found.completed.num_experts) == (4, 4)
    with pytest.raises(UserError, match=r"num_local_experts=8 and num_experts=4 are one field"):
        read(config | {"num_local_experts": 8}, tmp_path)


@pytest.mark.parametrize(
    ("field", "is_refused"),
    [
        ({"attention_multiplier": 0.5}, True),
        ({"qk_layernorm_scale": 2.0}, True),
        ({"use_qk_norm": True}, True),
        ({"clip_qkv": 8.0}, True),
        ({"use_qk_norm": False}, False),
        ({"is_llama_config": True, "unsloth_version": "2026"}, False),
        ({"_attn_implementation_autoset": True}, False),
    ],
)
def test_a_field_that_may_change_rewards_is_not_passed_over(
    tmp_path: Path, field: dict[str, Any], is_refused: bool
) -> None:
    config = hf_config_of("qwen2") | field
    if is_refused:
        with pytest.raises(UserError, match=rf"config\.json: {next(iter(field))}=.* is not known to a qwen2 here"):
            read(config, tmp_path)
    else:
        assert read(config, tmp_path).num_layers == 4


def test_an_edited_rope_scaling_is_not_passed_over(tmp_path: Path) -> None:
    """In an export, which has both: 4.57 reads the one, transformers 5 the other."""
    expected = read(hf_config_of("qwen2"), tmp_path)
    exported = hf_config_of("qwen2") | {"rope_parameters": rope_parameters_of(expected.completed)}
    assert same_rotation(read(exported, tmp_path), expected)
    with pytest.raises(UserError, match=r"rope_scaling .*'yarn'.* and rope_parameters .* are not the same"):
        read(exported | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, tmp_path)

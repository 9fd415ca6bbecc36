"""model.hf_config: a new model of any family, every key of which is one of its architecture."""

import pytest
import torch

from nemo_bt.config.load import load_settings
from nemo_bt.errors import UserError
from nemo_bt.training.checks import run_architecture
from tests.support.settings import NEEDED

QWEN3 = "model=qwen3_8b"


def architecture(*overrides: str) -> object:
    return run_architecture(load_settings("train", [*NEEDED, *overrides]), None, num_tokens=1)


def test_keys_of_a_choice_can_be_changed() -> None:
    found = architecture(QWEN3, "model.hf_config.num_hidden_layers=2", "model.max_position_embeddings=4096")
    assert (found.num_layers, found.hidden_size, found.family.nemo_config) == (2, 4096, "qwen3.Qwen3Config")
    assert found.hf_config["max_position_embeddings"] == 4096


def test_rope_parameters_of_transformers_5_are_read() -> None:
    old, new = (
        architecture(QWEN3, f"model.hf_config.{key}") for key in ("rope_theta=5e5", "rope_parameters={rope_theta: 5e5}")
    )
    assert torch.equal(old.rotary_frequencies[0], new.rotary_frequencies[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.hf_config.num_layers=2"], r"unknown key model\.hf_config\.num_layers\. Did you mean "),
        (["model.hf_config.model_type=foo"], r"model\.hf_config: model_type 'foo' is not supported\. Supported: llama"),
        (["model.hf_config.model_type=null"], r"model\.hf_config: model_type 'None' is not supported"),
        (["model.restore_from_path=base"], r"model\.hf_config and model\.restore_from_path are both set"),
        (["model.num_layers=2"], r"model\.num_layers and model\.hf_config are both set; hf_config has them"),
    ],
)
def test_what_would_be_ignored_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture(QWEN3, *overrides)

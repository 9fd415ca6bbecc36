"""Adapters beside a head of two layers, which their base model has not: PEFT's folder, and a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from nemo_bt.config.loss import RewardHeadSettings
from nemo_bt.pretrained.attributes import with_head
from nemo_bt.pretrained.names import HEADS
from nemo_bt.pretrained.resolve import find_pretrained, hf_tensors, open_weights
from nemo_bt.pretrained.two_layer_classifier import TwoLayerHeadForSequenceClassification
from tests.support.averaged import as_adapters
from tests.support.hf_models import save
from tests.support.two_layers import hf_config_with


def adapted(folder: Path) -> Any:
    """Adapters and a head of two layers on a base model, as PEFT trains and saves them."""
    save("qwen3", folder / "base", classifier=False)
    model = TwoLayerHeadForSequenceClassification.from_pretrained(
        folder / "base", config=hf_config_with(folder / "base", 24)
    )
    lora = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=6, target_modules=["q_proj"]))
    for name, parameter in lora.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    lora.peft_config["default"].base_model_name_or_path = "base"
    lora.save_pretrained(str(folder / "adapter"))
    return lora


@torch.no_grad()
def test_a_folder_of_peft_has_the_whole_head(tmp_path: Path) -> None:
    expected = adapted(tmp_path).merge_and_unload().state_dict()
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.score.0.weight" in saved
    pretrained = find_pretrained(str(tmp_path / "adapter"))
    assert pretrained.architecture.head_hidden_size == 24
    source = hf_tensors(pretrained)
    assert source.infos.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(source.read(name), tensor, rtol=0, atol=1e-6)
    assert open_weights(pretrained, 0).has_head


@pytest.mark.parametrize("attributes", [{}, {"a": 1.0, "b": 0.5}], ids=["one reward", "attributes"])
def test_adapters_have_a_head_that_their_base_has_not(attributes: dict[str, float], tmp_path: Path) -> None:
    base = save("qwen3", tmp_path / "base", classifier=False)
    plain = as_adapters(base, tmp_path / "plain.nemo", seed=1)
    asked = with_head(find_pretrained(str(base)), RewardHeadSettings(attributes=[*attributes], hidden_size=24))
    nemo = as_adapters(base, tmp_path / "x.nemo", seed=1, pretrained=asked)
    initial = open_weights(find_pretrained(str(nemo)), 0)
    rows = len(attributes) or 1
    assert [initial.source.infos[name].shape for name in HEADS] == [(rows, 24), (rows,), (24, 64), (24,)]
    assert initial.has_head
    assert "output_layer.bias" not in open_weights(find_pretrained(str(plain)), 0).source.infos

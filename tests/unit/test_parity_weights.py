"""What transformers is handed when its rewards are compared with ours."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from nemo_bt.converters.parity import _weights_alone
from tests.support.hf_models import save


def test_transformers_reads_the_weights_and_nothing_that_lies_beside_them(tmp_path: Path) -> None:
    """It would follow what a merged model's adapters leave behind to their base, wherever that is."""
    folder = save("llama3.1, head size", tmp_path / "hf")
    expected = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "no/where", "peft_type": "LORA"})
    )
    config = AutoConfig.from_pretrained(folder)
    with pytest.raises(AttributeError):  # it has looked there for weights
        AutoModelForSequenceClassification.from_pretrained(folder, config=config, local_files_only=True)
    with _weights_alone(folder) as alone:
        found = AutoModelForSequenceClassification.from_pretrained(alone, config=config, local_files_only=True)
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())

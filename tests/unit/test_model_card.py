"""What a model card says of the loss."""

from dataclasses import asdict
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from converters.model_card import _adapters, _metadata, _terms, _text
from nemo_bt.config.loss import LossSettings
from nemo_bt.config.model import PeftSettings

BRADLEY_TERRY = "-log sigmoid(r_chosen - r_rejected)"


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({}, BRADLEY_TERRY),
        ({"margin": True, "label_smoothing": 0.1}, f"{BRADLEY_TERRY}, with margin=True, label_smoothing=0.1"),
        ({"custom_fn": {"path": "a.py", "name": "hinge"}}, f"{BRADLEY_TERRY}, in whose place stood the function hinge"),
        ({"kind": "davidson", "tie": 0.5}, "The loss was davidson, with tie=0.5"),
    ],
)
def test_only_terms_that_were_on_are_told(loss: dict[str, Any], told: str) -> None:
    assert _terms(asdict(LossSettings(**loss))) == told


@pytest.mark.parametrize(
    ("origin", "base"),
    [
        ("Qwen/Qwen3-8B@abc123", "Qwen/Qwen3-8B"),
        ("models/mine", None),  # a folder, wherever it was
        ("tests/unit", None),  # a folder that is there
        ("/data/models/mine", None),
        (None, None),
    ],
)
def test_the_hub_is_told_the_base_model_and_the_last_validation(origin: str | None, base: str | None) -> None:
    validation = {"step": 5, "val/hh/accuracy": 0.71239, "val/hh/loss": 0.5, "val/hh/web/accuracy": 0.1}
    card = _metadata({"settings": {"model": {"restore_from_path": origin}}, "validation": validation}, "mine")
    assert card.get("base_model") == base
    (result,) = card["model-index"][0]["results"]
    assert (result["dataset"]["name"], result["metrics"][0]["value"]) == ("hh", 0.7124)
    assert "model-index" not in _metadata({}, "mine")
    assert ModelCard(f"---\n{yaml.safe_dump(card)}---\n").data.eval_results[0].metric_value == 0.7124


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({}, "prompt + answer"),
        ({"join": "\n"}, 'prompt + "\\n" + answer'),
        ({"input_template": "User: {}\n"}, '"User: {}\\n".replace("{}", prompt) + answer'),
    ],
)
def test_how_prompt_and_answer_became_a_text_is_told(source: dict[str, str], text: str) -> None:
    told = _text(source)
    assert told == text
    joined = source.get("input_template", "{}").replace("{}", "ask") + source.get("join", "") + "say"
    assert eval(told, {"prompt": "ask", "answer": "say"}) == joined


def test_adapters_are_told() -> None:
    assert _adapters(asdict(PeftSettings())) == {}
    told = _adapters(asdict(PeftSettings(peft_scheme="lora")))
    assert told["adapters"].startswith("LoRA of rank 32, alpha 32, of linear_qkv, linear_proj")

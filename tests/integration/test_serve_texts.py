"""A server whose model was trained on texts that are joined says so, and joins those of /score alike."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from nemo_bt.pretrained.trained_head import TRAINED_HEAD
from tests.support.hf_models import save
from tests.support.serving import serving

JOINED = "/score and /rerank put prompt and response together as the training did"
AS_TRAINED = 'as in training (text_settings of config.json): model.data.join=" ", model.data.chat_template="none"'
SINCE = "was trained on since text_settings of config.json was written, maybe with texts given otherwise"


@pytest.mark.parametrize(
    ("told", "lines"),
    [
        ({"text_settings": {"join": " ", "chat_template": "none"}}, [AS_TRAINED, JOINED]),
        (
            {"text_settings": {"join": " ", "chat_template": "none"}, TRAINED_HEAD: "another"},
            [AS_TRAINED, SINCE, JOINED],
        ),
        ({}, []),
    ],
    ids=["joined", "trained on since", "nothing told"],
)
def test_what_the_training_did_is_said_at_the_start(
    tmp_path: Path, tokenizer: Any, told: dict[str, Any], lines: list[str]
) -> None:
    model = save("qwen3", tmp_path / "model", tokenizer=tokenizer)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | told))
    with serving(model) as (address, process):
        asked = {"text_1": "Is there tea?", "text_2": "There is."}
        scored = httpx.post(f"{address}/score", json=asked, timeout=60).json()["data"][0]["score"]
    assert process.stdout
    said = process.stdout.read().splitlines()
    assert [any(line in one for one in said) for line in (AS_TRAINED, SINCE, JOINED)] == [
        line in lines for line in (AS_TRAINED, SINCE, JOINED)
    ]
    if lines:
        text = "<|bos|>Is there tea? There is.<|end|>"
    else:
        turns = [{"role": "user", "content": asked["text_1"]}, {"role": "assistant", "content": asked["text_2"]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    hf = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        assert scored == pytest.approx(hf(**ids).logits.item(), abs=1e-5)

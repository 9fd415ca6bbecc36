"""A folder of someone else's that is not what it says: nemo-bt score names field, found and expected in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from tests.support.hf_models import save
from tests.support.runs import nemo_bt


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model, one with more layers and one with wider ones, and adapters on the first."""
    folder = tmp_path_factory.mktemp("folders")
    save("qwen3", folder / "base", tokenizer=tokenizer)
    save("qwen3", folder / "longer", tokenizer=tokenizer, num_hidden_layers=6)
    save("qwen3", folder / "wider", tokenizer=tokenizer, hidden_size=96)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "base", dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = "base"
    adapted.save_pretrained(str(folder / "adapters"))
    return folder


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


_MEND_BASE = "Set base_model_name_or_path in adapter_config.json to the model that they were trained on."


@pytest.mark.parametrize(
    ("name", "mistake", "told"),
    [
        (
            "base",
            lambda model: change(model / "config.json", residual_multiplier=0.5),
            "{model}: config.json: residual_multiplier=0.5 is not known to a qwen3 here, and its name says that it "
            "changes what the model computes. If it does not, take it out.",
        ),
        (
            "base",
            lambda model: change(model / "tokenizer_config.json", tokenizer_class="SentencePieceBackend"),
            "{model}/tokenizer_config.json: tokenizer_class: expected a class of transformers "
            f"{transformers.__version__}, got SentencePieceBackend, which transformers 5 has. "
            "Set it to PreTrainedTokenizerFast",
        ),
        (
            "adapters",
            lambda model: change(model / "adapter_config.json", base_model_name_or_path="wider"),
            "{model}: adapters of model.layers.0.self_attn.q_proj.weight: expected (rows, columns) in the base model "
            "wider, (r, columns) in lora_A and (rows, r) in lora_B, found (128, 96), (2, 64) and (128, 2). "
            + _MEND_BASE,
        ),
        (
            "adapters",
            lambda model: change(model / "adapter_config.json", base_model_name_or_path="longer"),
            "{model}: expected adapters of every q_proj (target_modules) in the base model longer, found none of "
            f"model.layers.4.self_attn.q_proj.weight. {_MEND_BASE}",
        ),
    ],
)
def test_a_mistake_ends_with_one_line_and_status_2(
    folders: Path, tmp_path: Path, name: str, mistake: Callable[[Path], None], told: str
) -> None:
    for folder in ("base", "longer", "wider", "adapters"):
        shutil.copytree(folders / folder, tmp_path / folder)
    mistake(tmp_path / name)
    (tmp_path / "rows.jsonl").write_text('{"text": "tea"}\n')
    result = nemo_bt(
        "score",
        f"model.restore_from_path={tmp_path / name}",
        f"score.input={tmp_path / 'rows.jsonl'}",
        f"score.output={tmp_path / 'out.jsonl'}",
        "trainer.accelerator=cpu",
    )
    assert (result.returncode, result.stderr.strip().count("\n")) == (2, 0), result.stderr
    assert result.stderr.startswith("error: ")
    assert told.format(model=tmp_path / name) in result.stderr
    assert not (tmp_path / "out.jsonl").exists()

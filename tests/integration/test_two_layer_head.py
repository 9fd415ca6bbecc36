"""A head of two layers from training to whoever reads it: transformers, PEFT, and this package's own commands."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.pretrained.names import HEAD_BIAS, HEADS
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.pretrained.two_layer_classifier import TwoLayerHeadForSequenceClassification
from nemo_bt.pretrained.two_layer_head import OWN_CLASS, OWN_FILE
from tests.support.converted import tensors
from tests.support.launches import Logs
from tests.support.layouts import checkpoint
from tests.support.preferences import messages
from tests.support.runs import convert, full_tensors, metrics, nemo_bt
from tests.support.serving import serving
from tests.support.signals import (
    ATTRIBUTES,
    HIDDEN_SIZE,
    STEPS,
    TWO_LAYERS_ADAPTED,
    TWO_LAYERS_RESUMED,
    WEIGHTS,
    runs_of_all_signals,
)
from tests.support.sources import write
from tests.support.two_layers import INF_ORM, hf_config_with, plain_rewards, with_two_layers

planned_runs = runs_of_all_signals
CONVERSATIONS = [messages(f"Tea {n}?", f"{answer}, {n}.") for n in range(3) for answer in ("Yes", "No")]


def converted(command: str, source: Path, output: Path, *options: str) -> Path:
    result = convert(command, "--input", source, "--output", output, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "tolerance 1e-04" in result.stdout
    return output


def token_ids(conversations: list[Any], tokenizer: Any) -> list[torch.Tensor]:
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
    return [tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0] for text in texts]


@torch.no_grad()
def by_its_own_code(folder: Path, texts: list[torch.Tensor]) -> torch.Tensor:
    options: Any = {"dtype": torch.float32, "trust_remote_code": True}
    model = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
    return torch.cat([model(ids[None]).logits for ids in texts])


@pytest.mark.runs("two layers")
def test_an_export_gives_the_rewards_of_plain_pytorch(logs: Logs, tmp_path: Path, tokenizer: Any) -> None:
    trained = checkpoint(logs / "two layers", STEPS)
    folder = converted("nemo_to_hf", trained, tmp_path / "labels")
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["reward_head_hidden_size"]) == ([OWN_CLASS], HIDDEN_SIZE)
    stored, found = full_tensors(trained), tensors(folder)
    for name, own in {"score.0": "output_layer.hidden", "score.2": "output_layer"}.items():
        for kind in ("weight", "bias"):
            assert torch.equal(found[f"{name}.{kind}"], stored[f"module.{own}.{kind}"])
            assert found[f"{name}.{kind}"].any()
    card = (folder / "README.md").read_text()
    assert card.count("trust_remote_code=True") == 3
    assert f"`{OWN_FILE.name}` has it" in card

    texts = token_ids(CONVERSATIONS, tokenizer)
    rewards = plain_rewards(folder, texts)
    assert rewards.shape == (6, len(ATTRIBUTES))
    torch.testing.assert_close(by_its_own_code(folder, texts), rewards, rtol=1e-5, atol=1e-5)
    one = converted("nemo_to_hf", trained, tmp_path / "one", "--combined")
    expected = rewards @ torch.tensor(WEIGHTS)
    torch.testing.assert_close(by_its_own_code(one, texts)[:, 0], expected, rtol=1e-5, atol=1e-6)

    back = converted("nemo_to_hf", converted("hf_to_nemo", folder, tmp_path / "back.nemo"), tmp_path / "again")
    again = json.loads((back / "config.json").read_text())
    assert {name: again[name] for name in config} == config
    assert all(torch.equal(tensor, found[name]) for name, tensor in tensors(back).items())


@pytest.mark.runs
def test_inf_orms_own_folder_is_scored_served_and_trained_on(tmp_path: Path, dataset: Path) -> None:
    """It has INF-ORM's architecture and tensors, and no field of this project."""
    tokenizer = load_tokenizer(str(dataset / "tokenizer"), None)
    folder = with_two_layers(tmp_path / "hf", "llama3.1, head size", architectures=[INF_ORM], tokenizer=tokenizer)
    expected = plain_rewards(folder, token_ids(CONVERSATIONS, tokenizer))[:, 0]
    rows = [
        {"prompt": good[0]["content"], "chosen": good[1]["content"], "rejected": bad[1]["content"]}
        for good, bad in zip(CONVERSATIONS[::2], CONVERSATIONS[1::2], strict=True)
    ]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    model = [f"model.restore_from_path={folder}", "trainer.accelerator=cpu", "model.encoder_seq_length=512"]
    result = nemo_bt("evaluate", *model, f"evaluate.input={pairs}", f"evaluate.output={tmp_path / 'results'}")
    assert result.returncode == 0, result.stdout + result.stderr
    scored = [json.loads(line) for line in (tmp_path / "results" / "scored.jsonl").read_text().splitlines()]
    found = [row[f"reward_{side}"] for row in scored for side in ("chosen", "rejected")]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    with serving(folder) as (address, _):
        answer = httpx.post(f"{address}/reward", json={"conversations": CONVERSATIONS}, timeout=60).json()
    assert answer["rewards"] == pytest.approx(expected.tolist(), abs=1e-5)
    steps = ["trainer.max_steps=1", "model.global_batch_size=2", f"exp_manager.explicit_log_dir={tmp_path / 'run'}"]
    result = nemo_bt("train", *model, *steps, f"model.data.train={pairs}", "trainer.limit_val_batches=0")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "reward model (llama, Hugging Face folder), head kept" in result.stdout
    trained = full_tensors(checkpoint(tmp_path / "run", 1))
    source = open_weights(find_pretrained(str(folder)), 0).source
    moved = {name: (trained[f"module.{name}"] - source.read(name)).abs().max().item() for name in HEADS}
    assert max(moved.values()) < 1e-3
    assert [name for name, by in moved.items() if not by] == [HEAD_BIAS]  # both answers have it: no pair moves it
    asked = ["model.reward_head.hidden_size=32", f"exp_manager.explicit_log_dir={tmp_path / 'other'}"]
    refused = nemo_bt("train", *model, *steps, f"model.data.train={pairs}", *asked)
    assert refused.returncode == 2
    assert "is a reward model whose head has a hidden layer of 64. Leave the setting out to keep" in refused.stderr


@pytest.mark.runs(TWO_LAYERS_ADAPTED, TWO_LAYERS_RESUMED)
def test_a_resumed_run_keeps_the_head_of_its_settings(logs: Logs) -> None:
    """Its base model has none."""
    whole, resumed = (full_tensors(checkpoint(logs / name, 2)) for name in (TWO_LAYERS_ADAPTED, TWO_LAYERS_RESUMED))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert metrics(logs / TWO_LAYERS_RESUMED, "train/loss") == metrics(logs / TWO_LAYERS_ADAPTED, "train/loss")[1:]


@pytest.mark.runs(TWO_LAYERS_ADAPTED)
def test_adapters_train_and_keep_the_whole_head(logs: Logs, tmp_path: Path, dataset: Path) -> None:
    trained = checkpoint(logs / TWO_LAYERS_ADAPTED, 2)
    stored = full_tensors(trained)
    heads = [stored[f"module.{name}"] for name in HEADS]
    assert [tuple(head.shape) for head in heads] == [(1, HIDDEN_SIZE), (1,), (HIDDEN_SIZE, 64), (HIDDEN_SIZE,)]
    assert [bool(head.any()) for head in heads] == [name != HEAD_BIAS for name in HEADS]  # pairs do not move it
    merged = converted("nemo_to_hf", trained, tmp_path / "merged")
    adapters = converted("nemo_to_hf", trained, tmp_path / "adapters", "--adapters")
    config = hf_config_with(logs.folder / "base", HIDDEN_SIZE)
    base = TwoLayerHeadForSequenceClassification.from_pretrained(logs.folder / "base", config=config)
    found = PeftModel.from_pretrained(base, adapters).merge_and_unload().state_dict()
    for name, tensor in tensors(merged).items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    source = open_weights(find_pretrained(str(adapters)), 0).source
    assert all(torch.equal(source.read(name), head) for name, head in zip(HEADS, heads, strict=True))
    texts = token_ids(CONVERSATIONS, load_tokenizer(str(dataset / "tokenizer"), None))
    torch.testing.assert_close(by_its_own_code(merged, texts), plain_rewards(merged, texts), rtol=1e-5, atol=1e-5)

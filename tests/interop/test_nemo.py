"""NeMo and Megatron open a .nemo, of the converter and of a run, by their own loaders."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interop.environment import ask
from tests.interop.ours import CONVERSATIONS, TOLERANCE, rewards_of
from tests.support.hf_models import hf_config_of, save
from tests.support.layouts import checkpoint
from tests.support.runs import convert, full_tensors, nemo_bt, training

SHAPE = "qwen3"
NEMO = f"NeMo | {importlib.metadata.version('nemo_toolkit')}"
MEGATRON = f"Megatron-Core | {importlib.metadata.version('megatron-core')}"
UNFUSED = (
    "apply_rope_fusion",
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "gradient_accumulation_fusion",
    "masked_softmax_fusion",
    "persist_layer_norm",
)


@pytest.fixture(scope="module", params=["the converter", "a run"])
def nemo(
    request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any
) -> Path:
    folder = tmp_path_factory.mktemp("nemo")
    hf = save(SHAPE, folder / "hf", tokenizer=tokenizer)
    if request.param == "the converter":
        result = convert("hf_to_nemo", "--input", hf, "--output", folder / "rm.nemo")
        found = folder / "rm.nemo"
    else:
        result = nemo_bt(*training(dataset, folder / "run", hf), "trainer.max_steps=2")
        found = checkpoint(folder / "run", 2)
    assert result.returncode == 0, result.stderr
    return found


def test_nemos_connector_loads_every_tensor(
    nemo: Path, tmp_path: Path, record_property: Any, request: pytest.FixtureRequest
) -> None:
    of = request.node.callspec.params["nemo"]
    what = f"ModelConnector.nemo_load opens a .nemo of {of} with every weight and its tokenizer"
    record_property("program", f"{NEMO} | {what}; here, with nemo_bt's model and its CPU in CUDA's place")
    answer = ask("nemo", "nemo_connector", {"nemo": str(nemo), "tensors": str(tmp_path / "tensors.pt")}, tmp_path)
    assert answer == {"model": "RewardModel", "strategy": "MegatronStrategy", "words": 347}
    found = torch.load(tmp_path / "tensors.pt")
    stored = full_tensors(nemo)
    layers = hf_config_of(SHAPE)["num_hidden_layers"]
    expected: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        before, stacked, after = name.removeprefix("module.").partition("decoder.layers.")
        parts = {f"{before}{stacked}{n}.{after}": tensor[n] for n in range(layers)} if stacked else {before: tensor}
        expected |= parts
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_nemos_own_model_has_its_rewards(
    nemo: Path, tmp_path: Path, record_property: Any, request: pytest.FixtureRequest
) -> None:
    of = request.node.callspec.params["nemo"]
    what = (
        f"dist_checkpointing loads a .nemo of {of} into NeMo's own Qwen3Model, whose last hidden state times the head"
    )
    without = "here, without nemo_bt, the CPU as current_device"
    record_property("program", f"{MEGATRON} | {what} is the reward; {without}")
    hf_config = json.loads((nemo / "context" / "hf_config.json").read_text())
    fields = {
        "num_layers": hf_config["num_hidden_layers"],
        "hidden_size": hf_config["hidden_size"],
        "ffn_hidden_size": hf_config["intermediate_size"],
        "num_attention_heads": hf_config["num_attention_heads"],
        "num_query_groups": hf_config["num_key_value_heads"],
        "kv_channels": hf_config["head_dim"],
        "vocab_size": full_tensors(nemo)["module.embedding.word_embeddings.weight"].shape[0],
        "layernorm_epsilon": hf_config["rms_norm_eps"],
        "rotary_base": hf_config["rope_theta"],
        "seq_length": 512,
        "share_embeddings_and_output_weights": False,
        "use_cpu_initialization": True,
    }
    task = {"fields": fields | dict.fromkeys(UNFUSED, False), "weights": str(nemo / "weights")}
    found = ask("nemo", "nemo_model", task | {"conversations": CONVERSATIONS}, tmp_path)
    assert found == {"rewards": pytest.approx(rewards_of(nemo, CONVERSATIONS), abs=TOLERANCE), "ours": []}

"""Rewards and gradients of every family equal transformers', at one rank; rewards at TP2 and PP2 from a .nemo."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.batching.stream import build_stream
from nemo_bt.config.loss import LossSettings
from nemo_bt.planning.activations import part_units
from nemo_bt.planning.rows import StreamRows
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.pretrained.convert import AsHf
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support.converted import to_nemo
from tests.support.hf_models import SHAPES, build, hf_config_of
from tests.support.random_groups import random_groups, sequences
from tests.support.recorder import SavedBytes
from tests.support.reference import padded_rewards
from tests.support.runs import relative_difference, torchrun
from tests.support.settings import settings_of
from tests.support.stacked import InMemory, stacked_gradients

GROUPS = random_groups(3, shared=True, seed=5)
FROM_FOLDERS = ("gemma3", "phi3", "mixtral")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shape -> a .nemo of it."""
    folder = tmp_path_factory.mktemp("families")
    paths = {}
    for number, shape in enumerate(SHAPES):
        build(shape).save_pretrained(folder / f"{number}")
        pretrained = find_pretrained(str(folder / f"{number}"))
        paths[shape] = to_nemo(pretrained, open_weights(pretrained, 0), folder / f"{number}.nemo")
    return paths


@pytest.fixture(scope="module")
def at_two_ranks(converted: dict[str, Path]) -> dict[str, dict[str, list[float]]]:
    """Shape -> layout -> rewards."""
    folder = next(iter(converted.values())).parent
    groups = [
        {"prefix": group.prefix.tolist(), "continuations": [side.tolist() for side in group.continuations]}
        for group in GROUPS
    ]
    models = {shape: str(path) for shape, path in converted.items()}
    models |= {f"{shape} from its folder": str(converted[shape].with_suffix("")) for shape in FROM_FOLDERS}
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"groups": groups, "models": models, "out": str(folder / "out.json")}))
    result = torchrun(2, "tests.support.rank_rewards", spec)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return json.loads((folder / "out.json").read_text())


def reward_model(nemo: Path) -> Any:
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    pretrained = find_pretrained(str(nemo))
    model = RewardModel(reward_config(pretrained.architecture, seq_length=256), LossSettings())
    model.initial_weights, model._trainer = open_weights(pretrained, 0), None
    model.configure_model()
    return model


def rewards(model: Any) -> torch.Tensor:
    stream = build_stream(GROUPS, pad_id=0)
    return model.module(stream.tokens_1T, stream.positions_1T, stream.segments_C5)


@pytest.mark.parametrize("shape", SHAPES)
def test_rewards_equal_transformers(shape: str, one_rank: None, converted: dict[str, Path]) -> None:
    model, hf = reward_model(converted[shape]).eval(), build(shape)
    with torch.no_grad():
        found = rewards(model)
        for side in ("right", "left"):
            expected = padded_rewards(hf, sequences(GROUPS), side)
            assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert expected.std() > 0.03


@pytest.mark.parametrize("shape", ["qwen2", "gemma3", "nemotron", "mixtral"])
def test_megatron_itself_loads_what_was_written(shape: str, one_rank: None, converted: dict[str, Path]) -> None:
    from megatron.core import dist_checkpointing

    model = reward_model(converted[shape])
    module = model.module
    expected = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.data.zero_()
    loaded = dist_checkpointing.load(model.sharded_state_dict(), str(converted[shape] / "weights"))
    assert {name: torch.equal(loaded[f"module.{name}"], tensor) for name, tensor in expected.items()} == dict.fromkeys(
        expected, True
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_transformers(shape: str, one_rank: None, converted: dict[str, Path]) -> None:
    model, hf = reward_model(converted[shape]), build(shape)
    weights = torch.linspace(-1, 2, 18)
    (rewards(model) * weights).sum().backward()
    (padded_rewards(hf, sequences(GROUPS)) * weights).sum().backward()
    found = dict(AsHf(InMemory(stacked_gradients(model)), model.config.architecture).tensors())
    expected = {name: parameter.grad for name, parameter in hf.named_parameters()}
    assert found.keys() == expected.keys()
    differences = {name: relative_difference(found[name], gradient) for name, gradient in expected.items()}
    assert max(differences.values()) < 2e-5, max(differences, key=differences.__getitem__)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_stream_keeps_for_its_backward_pass_is_counted(
    shape: str, one_rank: None, converted: dict[str, Path]
) -> None:
    model, stream = reward_model(converted[shape]), build_stream(GROUPS, pad_id=0)
    saved = SavedBytes(list(model.module.parameters()))
    with saved.counted():
        reward_C = model.module(stream.tokens_1T, stream.positions_1T, stream.segments_C5)
    rows = StreamRows(stream.tokens_1T.shape[1], len(reward_C), len(reward_C))
    units = part_units(model.config.architecture, settings_of().model, 0, 0, rows, dtype_bytes=4)
    assert sum(unit.kept for unit in units) == pytest.approx(saved.now, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_rewards_at_two_ranks_equal_transformers(shape: str, at_two_ranks: dict[str, dict[str, list[float]]]) -> None:
    with torch.no_grad():
        expected = padded_rewards(build(shape), sequences(GROUPS))
    layouts = {"PP2"} if SHAPES[shape].get("num_key_value_heads") == 1 else {"TP2", "PP2"}
    assert at_two_ranks[shape].keys() == layouts
    for found in at_two_ranks[shape].values():
        assert found == pytest.approx(expected.tolist(), abs=1e-5)
    if shape in FROM_FOLDERS:
        assert at_two_ranks[f"{shape} from its folder"] == at_two_ranks[shape]


def test_gemmas_activation_is_the_one_that_transformers_uses() -> None:
    """Gemma 1 reads hidden_act and ignores hidden_activation; Gemma 2 and 3 the other way round."""
    both = {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}
    found = {
        kind: architecture_of({"model_type": kind, **both}).activation for kind in ("gemma", "gemma2", "gemma3_text")
    }
    assert found == {"gemma": "gelu", "gemma2": "gelu_pytorch_tanh", "gemma3_text": "gelu_pytorch_tanh"}


@pytest.mark.skipif(importlib.util.find_spec("transformer_engine") is not None, reason="Transformer Engine is here")
@pytest.mark.parametrize("shape", SHAPES)
def test_fusions_on_a_gpu_fit_the_activation(shape: str, one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where layers come from Transformer Engine, Megatron's own check passes all fusions up to the missing package."""
    from nemo_bt.model import config

    monkeypatch.setattr(config, "has_transformer_engine", lambda: True)
    with pytest.raises(ValueError, match="apply_rope_fusion is not available"):
        config.reward_config(architecture_of(hf_config_of(shape)), seq_length=256)

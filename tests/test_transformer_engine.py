"""Layers of Transformer Engine beside those of torch: the same tensors under the same names, and the same checkpoints.

Needs Transformer Engine (make gpu-setup) but no GPU: its modules are built on the CPU, and nothing is computed.
"""

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.model.segments import AttentionRule
from nemo_bt.model.varlen import Sequences, fused_kernel
from nemo_bt.origin import find_origin, open_weights
from nemo_bt.settings import LoraSettings, LossSettings
from tests.hf_models import SHAPES, save

pytestmark = pytest.mark.skipif(
    find_spec("transformer_engine") is None, reason="Transformer Engine is not installed: make gpu-setup"
)

NO_LOSS = LossSettings(False, False, 0.0, 0.0)
LORA = LoraSettings(["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"], 8, 16.0, 0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shape -> Hugging Face folder."""
    folder = tmp_path_factory.mktemp("shapes")
    return {shape: save(shape, folder / str(number)) for number, shape in enumerate(SHAPES)}


def reward_model(folder: Path, with_engine: bool, lora: LoraSettings | None = None, start: bool = True) -> Any:
    """A model as it is built on a GPU, or on a CPU; both lie on the CPU here."""
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: with_engine)
        origin = find_origin(str(folder))
        fused = {"moe_permute_fusion": False}  # it makes a tensor on a GPU
        fused |= {"gradient_accumulation_fusion": False} if lora else {}  # as nemo_setup.build_model has it
        model = RewardModel(reward_config(origin.hf_config, seq_length=256, **fused), NO_LOSS, lora=lora)
        model.start, model._trainer = open_weights(origin, 0) if start else None, None
        model.configure_model()
    return model


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.module.state_dict().items() if not name.endswith("_extra_state")}


def places(model: Any) -> dict[str, tuple[Any, ...]]:
    """Of a checkpoint: every entry's key, shape and part of the whole."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    from nemo_bt.model.load import leaves

    sharded = model.sharded_state_dict()
    apply_factories(sharded)
    return {
        f"{entry.key} {entry.global_offset}": (entry.global_shape, entry.local_shape, entry.dtype)
        for entry in leaves(sharded)
        if isinstance(entry, ShardedTensor)
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_names_shapes_and_loaded_weights_are_the_same(shape: str, one_rank: None, folders: dict[str, Path]) -> None:
    engine, plain = (reward_model(folders[shape], with_engine) for with_engine in (True, False))
    assert any(type(module).__module__.startswith("megatron.core.extensions") for module in engine.module.modules())
    assert not any(type(module).__module__.startswith("megatron.core.extensions") for module in plain.module.modules())
    if "num_local_experts" in SHAPES[shape] or "num_experts" in SHAPES[shape]:
        assert places(engine) == places(plain)  # grouped experts have other names in the module
        return
    found, expected = tensors(engine), tensors(plain)
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert {name for name, value in expected.items() if not torch.equal(found[name], value)} == set()
    assert places(engine) == places(plain)


@pytest.mark.parametrize("shape", ["llama3.1, head size", "gemma2", "nemotron"])
@pytest.mark.parametrize("saves_with_engine", [True, False])
def test_a_checkpoint_of_either_loads_into_the_other(
    saves_with_engine: bool, shape: str, one_rank: None, folders: dict[str, Path], tmp_path: Path
) -> None:
    from megatron.core import dist_checkpointing

    saved = reward_model(folders[shape], saves_with_engine)
    loaded = reward_model(folders[shape], not saves_with_engine, start=False)
    dist_checkpointing.save(saved.sharded_state_dict(prefix="module."), str(tmp_path))
    for parameter in loaded.module.parameters():
        parameter.data.zero_()
    state = dist_checkpointing.load(loaded.sharded_state_dict(prefix="module."), str(tmp_path))
    loaded.load_state_dict(state, strict=True)
    expected = tensors(saved)
    assert {name for name, value in tensors(loaded).items() if not torch.equal(expected[name], value)} == set()
    state.pop("module.output_layer.weight")
    with pytest.raises(RuntimeError, match=r"missing \['module.output_layer.weight'\]"):
        loaded.load_state_dict(state, strict=True)


def test_adapters_stand_beside_the_same_layers(one_rank: None, folders: dict[str, Path]) -> None:
    engine, plain = (reward_model(folders["llama3.1, head size"], kind, LORA) for kind in (True, False))
    found, expected = ({n for n, p in m.module.named_parameters() if p.requires_grad} for m in (engine, plain))
    assert found == expected
    assert len(found) == 1 + 4 * 8
    assert places(engine) == places(plain)


def test_its_attention_takes_what_the_fused_kernel_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformer_engine.pytorch import DotProductAttention

    known, given = inspect.signature(DotProductAttention.forward).parameters, {}

    def noting(self: Any, query: torch.Tensor, *_: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        given.update(kwargs)
        return query

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(DotProductAttention, "forward", noting)
    starts, rows = torch.tensor([0, 5], dtype=torch.int32), torch.zeros(5, 8, 64)
    found = Sequences(None, torch.arange(5), starts, starts, 64, 64, 5)
    assert fused_kernel(AttentionRule(0.1), 8, 2, 64)(rows, rows[:, :2], rows[:, :2], found).shape == rows.shape
    assert {"cu_seqlens_q", "cu_seqlens_kv", "max_seqlen_q", "max_seqlen_kv"} < given.keys() < known.keys()

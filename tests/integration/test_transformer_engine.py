"""Layers of Transformer Engine beside those of torch: the same tensors under the same names, and the same checkpoints.

Needs Transformer Engine (make gpu-setup) but no GPU: its modules are built on the CPU, and nothing is computed.
"""

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.config.loss import LossSettings
from nemo_bt.config.model import LoraSettings
from nemo_bt.model.attention.segments import AttentionRule
from nemo_bt.model.attention.varlen import Sequences, fused_kernel
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support.hf_models import SHAPES, save

pytestmark = pytest.mark.skipif(
    find_spec("transformer_engine") is None, reason="Transformer Engine is not installed: make gpu-setup"
)

NO_LOSS = LossSettings()
LORA = LoraSettings(adapter_dim=8, alpha=16.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shape -> Hugging Face folder."""
    folder = tmp_path_factory.mktemp("shapes")
    return {shape: save(shape, folder / str(number)) for number, shape in enumerate(SHAPES)}


def reward_model(folder: Path, with_engine: bool, lora: LoraSettings | None = None, initial: bool = True) -> Any:
    """A model as it is built on a GPU, or on a CPU; both lie on the CPU here."""
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: with_engine)
        pretrained = find_pretrained(str(folder))
        fused = {"moe_permute_fusion": False}  # it makes a tensor on a GPU
        fused |= {"gradient_accumulation_fusion": False} if lora else {}  # as nemo_setup.build_model has it
        model = RewardModel(reward_config(pretrained.architecture, seq_length=256, **fused), NO_LOSS, lora=lora)
        model.initial_weights, model._trainer = open_weights(pretrained, 0) if initial else None, None
        model.configure_model()
    return model


def entries(model: Any) -> dict[str, torch.Tensor]:
    """Of a checkpoint, by key, shape of the whole and place in it: grouped experts have other names in the module."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    from nemo_bt.model.load import leaves

    sharded = model.sharded_state_dict()
    assert [name for name in sharded if "_extra_state" in name] == []
    apply_factories(sharded)
    tensors = [entry for entry in leaves(sharded) if isinstance(entry, ShardedTensor)]
    return {f"{entry.key} {entry.global_shape} {entry.global_offset}": entry.data.detach() for entry in tensors}


def different(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    assert found.keys() == expected.keys()
    same_dtype = all(found[name].dtype == value.dtype for name, value in expected.items())
    return [name for name, value in expected.items() if not (same_dtype and torch.equal(found[name], value))]


@pytest.mark.parametrize("shape", SHAPES)
def test_names_shapes_and_loaded_weights_are_the_same(shape: str, one_rank: None, folders: dict[str, Path]) -> None:
    engine, plain = (reward_model(folders[shape], with_engine) for with_engine in (True, False))
    assert any(type(module).__module__.startswith("megatron.core.extensions") for module in engine.module.modules())
    assert not any(type(module).__module__.startswith("megatron.core.extensions") for module in plain.module.modules())
    assert different(entries(engine), entries(plain)) == []
    if not engine.config.num_moe_experts:
        named = [{name: p.shape for name, p in model.module.named_parameters()} for model in (engine, plain)]
        assert named[0] == named[1]


@pytest.mark.parametrize("shape", ["llama3.1, head size", "gemma2", "nemotron", "mixtral"])
@pytest.mark.parametrize("saves_with_engine", [True, False])
def test_a_checkpoint_of_either_loads_into_the_other(
    saves_with_engine: bool, shape: str, one_rank: None, folders: dict[str, Path], tmp_path: Path
) -> None:
    from megatron.core import dist_checkpointing

    saved = reward_model(folders[shape], saves_with_engine)
    loaded = reward_model(folders[shape], not saves_with_engine, initial=False)
    dist_checkpointing.save(saved.sharded_state_dict(), str(tmp_path))
    for parameter in loaded.module.parameters():
        parameter.data.zero_()
    state = dist_checkpointing.load(loaded.sharded_state_dict(), str(tmp_path))
    loaded.load_state_dict(state, strict=True)
    assert different(entries(loaded), entries(saved)) == []
    state.pop("module.output_layer.weight")
    with pytest.raises(RuntimeError, match=r"missing \['module.output_layer.weight'\]"):
        loaded.load_state_dict(state, strict=True)


def test_adapters_stand_beside_the_same_layers(one_rank: None, folders: dict[str, Path]) -> None:
    engine, plain = (reward_model(folders["llama3.1, head size"], kind, LORA) for kind in (True, False))
    found, expected = ({n for n, p in m.module.named_parameters() if p.requires_grad} for m in (engine, plain))
    assert found == expected
    assert len(found) == 1 + 4 * 8
    assert different(entries(engine), entries(plain)) == []


def test_its_attention_takes_what_the_fused_kernel_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformer_engine.pytorch import DotProductAttention

    known, given, made = inspect.signature(DotProductAttention.forward).parameters, {}, {}
    original = DotProductAttention.__init__

    def making(self: Any, *args: Any, **kwargs: Any) -> None:
        made.update(kwargs, args=args)
        original(self, *args, **kwargs)

    def noting(self: Any, query: torch.Tensor, *_: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        given.update(kwargs)
        return query

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(DotProductAttention, "__init__", making)
    monkeypatch.setattr(DotProductAttention, "forward", noting)
    starts, rows = torch.tensor([0, 5], dtype=torch.int32), torch.zeros(5, 8, 64)
    found = Sequences(None, torch.arange(5), starts, starts, 64, 64, 5)
    assert fused_kernel(AttentionRule(0.1), 8, 2, 64)(rows, rows[:, :2], rows[:, :2], found).shape == rows.shape
    assert made["args"] == (8, 64)
    assert (made["num_gqa_groups"], made["softmax_scale"], made["qkv_format"]) == (2, 0.1, "thd")
    assert made["attn_mask_type"] == "padding_causal_bottom_right"
    assert {"cu_seqlens_q", "cu_seqlens_kv", "max_seqlen_q", "max_seqlen_kv"} < given.keys() < known.keys()


def test_a_cpus_optimizer_saves_every_key_that_its_own_reads(one_rank: None) -> None:
    from transformer_engine.pytorch.optimizers import FusedAdam

    from nemo_bt.cpu.adam import GroupStepAdamW

    parameters = [torch.zeros(1, requires_grad=True)]
    ours = GroupStepAdamW(parameters, lr=1.0, weight_decay=0.0, betas=(0.9, 0.9), eps=1e-8)
    assert FusedAdam(parameters).defaults.keys() <= ours.defaults.keys()

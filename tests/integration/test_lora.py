"""Adapters: alike at every layout, resumed exactly, saved alone, and merged into what transformers loads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.pretrained.adapters import WithAdapters, digest, read_adapters
from nemo_bt.pretrained.names import EMBEDDING, HEAD
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.pretrained.torch_dist import TorchDist
from tests.support.hf_models import build, save
from tests.support.launches import Logs, Plan, Planner
from tests.support.layouts import CP2, SP, TP2, VPP2, ZERO, checkpoint, common, full
from tests.support.reference import padded_rewards, whole_sequences
from tests.support.runs import Run, convert, full_tensors, metrics, relative_difference
from tests.support.sources import open_set

STEPS, DIM = 6, 4
ONE = "one rank"
LAYOUTS = {
    1: {"recompute layers": full("uniform", 1)},
    2: {"TP2 SP": [*TP2, *SP], "TP2": TP2, "PP2 VPP2": VPP2, "DP2 distributed optimizer": ZERO, "CP2": CP2},
}


def planned_runs(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    plan = {}
    save("qwen3", folder / "base", classifier=False, tokenizer=load_tokenizer(str(dataset / "tokenizer"), None))
    save("nemotron", folder / "gateless", classifier=False, tokenizer=load_tokenizer(str(dataset / "tokenizer"), None))
    nemotron = [f"model.restore_from_path={folder / 'gateless'}", "trainer.max_steps=3", "model.optim.eps=1e-3"]
    save("mixtral", folder / "experts", classifier=False, tokenizer=load_tokenizer(str(dataset / "tokenizer"), None))
    attention = "model.peft.lora_tuning.target_modules=[linear_qkv,linear_proj]"
    mixtral = [f"model.restore_from_path={folder / 'experts'}", "trainer.max_steps=3", attention]
    lora = "model.peft.lora_tuning"
    settings = [
        f"model.restore_from_path={folder / 'base'}",
        "model.encoder_seq_length=512",
        "model.peft.peft_scheme=lora",
        f"{lora}.adapter_dim={DIM}",
        f"{lora}.alpha=8",
        "model.optim.lr=1e-3",
        "model.optim.eps=1e-4",  # as for the layouts; adapters have smaller gradients than weights, nemotron's most
        f"trainer.max_steps={STEPS}",
        "exp_manager.checkpoint_callback_params.every_n_train_steps=3",
    ]
    for num_ranks, layouts in LAYOUTS.items():
        named = {ONE: list[str]()} | layouts if num_ranks == 1 else layouts
        named = {name: [*settings, *more] for name, more in named.items()}
        named |= {f"nemotron {num_ranks}": [*settings, *nemotron, *(TP2 if num_ranks == 2 else [])]}
        named |= {f"mixtral {num_ranks}": [*settings, *mixtral, *([*TP2, *SP] if num_ranks == 2 else [])]}
        runs = [Run([*common(dataset, folder / name, num_ranks), *extra]) for name, extra in named.items()]
        if num_ranks == 1:
            resumed = [*common(dataset, folder / "resumed", 1), *settings, "exp_manager.resume_if_exists=true"]
            runs.append(Run(resumed, checkpoint(folder / ONE, 3)))
        else:
            dropping = [*settings, *TP2, f"{lora}.adapter_dropout=0.5"]
            runs.append(Run([*common(dataset, folder / "dropout", 2), *dropping]))
            resumed = [*common(dataset, folder / "dropout resumed", 2), *dropping, "exp_manager.resume_if_exists=true"]
            runs.append(Run(resumed, checkpoint(folder / "dropout", 3)))
        plan[num_ranks] = runs
    return plan


@pytest.mark.runs("dropout resumed", "TP2")
def test_what_is_dropped_is_the_same_after_a_resume(logs: Logs) -> None:
    losses = {name: metrics(logs / name, "train/loss") for name in ("dropout", "dropout resumed", "TP2")}
    assert losses["dropout"][3:] == losses["dropout resumed"]
    assert losses["dropout"] != losses["TP2"]
    weights = [full_tensors(checkpoint(logs / name, STEPS)) for name in ("dropout", "dropout resumed")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("name", [name for layouts in LAYOUTS.values() for name in layouts])
@pytest.mark.runs(ONE)
def test_every_layout_gives_one_ranks_losses_and_adapters(logs: Logs, name: str) -> None:
    expected = metrics(logs / ONE, "train/loss")
    assert len(expected) == STEPS
    assert len(set(expected)) == STEPS
    assert metrics(logs / name, "train/loss") == pytest.approx(expected, rel=1e-5)
    tensors, found = (full_tensors(checkpoint(logs / log_dir, STEPS)) for log_dir in (ONE, name))
    assert tensors.keys() == found.keys()
    assert max(relative_difference(found[key], tensors[key]) for key in tensors) < 1e-5


@pytest.mark.runs("nemotron 1", "nemotron 2")
def test_adapters_of_an_mlp_without_a_gate_are_alike_at_every_layout(logs: Logs) -> None:
    expected, found = (full_tensors(checkpoint(logs / f"nemotron {num_ranks}", 3)) for num_ranks in (1, 2))
    assert expected["module.decoder.layers.mlp.linear_fc1.adapter.linear_out.weight"].any()
    assert max(relative_difference(found[key], expected[key]) for key in expected) < 1e-5


@pytest.mark.runs("mixtral 1", "mixtral 2")
def test_adapters_of_the_attention_beside_experts_are_alike_at_every_layout(logs: Logs) -> None:
    losses = [metrics(logs / f"mixtral {num_ranks}", "train/loss") for num_ranks in (1, 2)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    expected, found = (full_tensors(checkpoint(logs / f"mixtral {num_ranks}", 3)) for num_ranks in (1, 2))
    assert expected["module.decoder.layers.self_attention.linear_proj.adapter.linear_out.weight"].any()
    assert max(relative_difference(found[key], expected[key]) for key in expected) < 1e-5


@pytest.mark.runs("resumed")
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(logs: Logs) -> None:
    assert metrics(logs / "resumed", "train/loss") == metrics(logs / ONE, "train/loss")[3:]
    expected, found = (full_tensors(checkpoint(logs / name, STEPS), prefix="") for name in (ONE, "resumed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.runs(ONE)
def test_only_adapters_and_head_are_trained_and_saved(logs: Logs) -> None:
    tensors = full_tensors(checkpoint(logs / ONE, STEPS))
    modules = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    sides = ("linear_in", "linear_out")
    adapters = {f"module.decoder.layers.{m}.adapter.{side}.weight" for m in modules for side in sides}
    assert tensors.keys() == adapters | {f"module.{HEAD}"}
    optimizer = full_tensors(checkpoint(logs / ONE, STEPS), prefix="optimizer.state.exp_avg.")
    assert {name.removeprefix("optimizer.state.exp_avg.") for name in optimizer} == tensors.keys()
    trained = sum(tensor.numel() for tensor in tensors.values())
    frozen = sum(p.numel() for name, p in build("qwen3", classifier=False).named_parameters() if "lm_head" not in name)
    frozen += (384 - 350) * 64  # rows that fill the embedding up
    said = logs.output(1)
    assert f"adapters of rank {DIM} and the head: {trained:,} parameters are trained, {frozen:,} are frozen" in said


@pytest.fixture(scope="module")
def merged(launched: dict[Planner, Plan]) -> Any:
    """The export of the run on one rank, which tests that ask for it read."""
    folder = launched[planned_runs].folder
    result = convert("nemo_to_hf", "--input", checkpoint(folder / ONE, STEPS), "--output", folder / "merged")
    assert result.returncode == 0, result.stderr
    return AutoModelForSequenceClassification.from_pretrained(folder / "merged", num_labels=1).float().eval()


@pytest.mark.runs(ONE)
def test_the_merged_export_gives_the_rewards_of_training(logs: Logs, dataset: Path, merged: Any) -> None:
    pairs = open_set(str(dataset / "random_val.parquet"), load_tokenizer(str(dataset / "tokenizer"), None))
    with torch.no_grad():
        rewards = padded_rewards(merged, whole_sequences(pairs, range(37)))
    chosen, rejected = rewards[0::2], rewards[1::2]
    expected = {
        "loss": -F.logsigmoid(chosen - rejected).mean().item(),
        "reward_chosen": chosen.mean().item(),
        "reward_rejected": rejected.mean().item(),
    }
    for key, value in expected.items():
        assert metrics(logs / ONE, f"val/held_out/{key}")[-1] == pytest.approx(value, abs=1e-5)


@pytest.mark.runs(ONE)
def test_the_merge_adds_scaled_products_and_changes_nothing_else(logs: Logs, merged: Any) -> None:
    base = dict(build("qwen3", classifier=False).named_parameters())
    tensors = full_tensors(checkpoint(logs / ONE, STEPS))
    stem = "module.decoder.layers.mlp.linear_fc2.adapter"
    for layer in range(4):
        a, b = (tensors[f"{stem}.{side}.weight"][layer] for side in ("linear_in", "linear_out"))
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        torch.testing.assert_close(merged.get_parameter(name), base[name] + 8 / DIM * b @ a)
        assert b.any()
        for same in ("self_attn.q_norm", "input_layernorm"):
            weight = f"model.layers.{layer}.{same}.weight"
            assert torch.equal(merged.get_parameter(weight), base[weight])
    assert torch.equal(merged.model.embed_tokens.weight, base["model.embed_tokens.weight"])
    assert torch.equal(merged.score.weight, tensors[f"module.{HEAD}"])


@pytest.mark.runs(ONE)
def test_peft_loads_the_adapters_alone(logs: Logs, merged: Any) -> None:
    argv = ("--input", checkpoint(logs / ONE, STEPS), "--output", logs.folder / "adapters", "--adapters")
    result = convert("nemo_to_hf", *argv)
    assert result.returncode == 0, result.stderr
    assert "largest difference" in result.stdout
    base = AutoModelForSequenceClassification.from_pretrained(logs.folder / "base", num_labels=1)
    found = PeftModel.from_pretrained(base, logs.folder / "adapters").merge_and_unload().state_dict()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.runs(ONE)
def test_training_starts_from_merged_weights(logs: Logs) -> None:
    initial = open_weights(find_pretrained(str(checkpoint(logs / ONE, STEPS))), head_seed=0)
    assert initial.has_head
    assert f"of adapters on {logs.folder / 'base'}" in initial.description


@pytest.mark.runs("resumed")
def test_adapters_that_do_not_fit_are_an_error(logs: Logs, tmp_path: Path) -> None:
    context = checkpoint(logs / "resumed", STEPS) / "context"
    facts = json.loads((context / "adapters.json").read_text())
    (context / "adapters.json").write_text(json.dumps(facts | {"adapter_dim": 8}))
    with pytest.raises(UserError, match=r"expected shape \(.*\), found \(.*\): the adapters do not fit"):
        open_weights(find_pretrained(str(context.parent)), head_seed=0)
    (context / "adapters.json").write_text(json.dumps(facts | {"base_digest": "0"}))
    with pytest.raises(UserError, match=r"its adapters belong to other weights than those that are at .*base now"):
        open_weights(find_pretrained(str(context.parent)), head_seed=0)
    (context / "adapters.json").write_text(json.dumps(facts | {"base": str(tmp_path / "gone")}))
    with pytest.raises(
        UserError, match=r"its adapters belong to .*gone \(context/adapters\.json\), which is not there"
    ):
        find_pretrained(str(context.parent))
    (context / "adapters.json").write_text(json.dumps(facts | {"base": str(context.parent)}))
    with pytest.raises(UserError, match=r"context/adapters\.json names itself as its base"):
        find_pretrained(str(context.parent))
    (context / "adapters.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapters\.json: expected base, target_modules, adapter_dim, alpha and base_"):
        find_pretrained(str(context.parent))


@pytest.mark.runs(ONE)
def test_adapters_in_fp32_on_a_base_in_bf16_are_merged_in_fp32(logs: Logs) -> None:
    path = checkpoint(logs / ONE, STEPS)
    base = open_weights(find_pretrained(str(logs.folder / "base")), 0, torch.bfloat16).source
    trained = TorchDist(find_pretrained(str(path)).nemo_file.open_weights, str(path))
    adapters = replace(read_adapters(path / "context"), base_digest=digest(base))
    merged, name = WithAdapters(base, trained, adapters, str(path)), "decoder.layers.mlp.linear_fc2.weight"
    stem = name.removesuffix(".weight")
    a, b = (trained.read(f"{stem}.adapter.{side}.weight") for side in ("linear_in", "linear_out"))
    assert [merged.infos[key].dtype for key in (name, EMBEDDING)] == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(merged.read(name), base.read(name).float() + 8 / DIM * b @ a)

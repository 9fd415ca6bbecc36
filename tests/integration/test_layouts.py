"""Ten optimizer steps at every layout and stream budget give one rank's losses and weights."""

import json
import re
from pathlib import Path

import pytest
import torch

from nemo_bt.checkpoint.manifest import plain_damage
from nemo_bt.config.load import load_settings
from nemo_bt.config.parallelism import stage_layers
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from tests.support.hf_models import SHAPES
from tests.support.launches import Logs
from tests.support.layouts import (
    BF16,
    EQUAL_LENGTHS,
    FOLDERS,
    LAYOUTS,
    MOVED,
    RESUMED,
    STEPS,
    TOLERANCE,
    checkpoint,
    runs_of_all_layouts,
)
from tests.support.reference import hf_model_of, padded_rewards, plain_loop, whole_sequences
from tests.support.runs import full_tensors, metrics, relative_difference
from tests.support.sources import open_set

planned_runs = runs_of_all_layouts


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.runs(f"{n} resumed")) for n in RESUMED.values()])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(logs: Logs, name: str) -> None:
    """It finds checkpoints of steps 4 and 8, and the newer one has a bit that was not written."""
    whole, resumed = logs / name, logs / f"{name} resumed"
    assert (resumed / "checkpoints" / "reward-step8.nemo.damaged").is_dir()
    assert plain_damage(resumed / "checkpoints" / "reward-step8.nemo.damaged") is None
    shown = " ".join(path.read_text() for path in logs.folder.parent.glob("output-*.txt"))
    pattern = re.escape(f"{resumed}/checkpoints/reward-step8.nemo is damaged: weights/") + ".* has other contents"
    assert len(re.findall(pattern, shown)) == 1
    for key in ("train/loss", "train/grad_norm", "train/lr"):
        assert metrics(resumed, key) == metrics(whole, key)[4:]
    assert metrics(resumed, "val/held_out/loss") == metrics(whole, "val/held_out/loss")[1:]
    expected, found = (full_tensors(checkpoint(log_dir), prefix="") for log_dir in (whole, resumed))
    assert any(key.startswith("optimizer") for key in expected)
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


@pytest.mark.parametrize("name", MOVED)
def test_a_run_goes_on_at_another_layout(logs: Logs, name: str) -> None:
    whole, moved = logs / RESUMED[2], logs / name
    for key in ("train/loss", "train/grad_norm"):
        assert metrics(moved, key) == pytest.approx(metrics(whole, key)[4:], rel=TOLERANCE)
    expected, found = (full_tensors(checkpoint(log_dir)) for log_dir in (whole, moved))
    assert max(relative_difference(found[key], expected[key]) for key in expected) < TOLERANCE


FROM_FOLDERS = [
    pytest.param(name, marks=pytest.mark.runs(name.split(":")[0]))
    for named in FOLDERS.values()
    for name in named
    if ":" in name
]
NAMES = [name for layouts in LAYOUTS.values() for name in layouts if name != "one stream"]


@pytest.mark.runs(*EQUAL_LENGTHS)
def test_one_pair_a_stream_equals_all_pairs_in_a_stream(logs: Logs) -> None:
    streams = {name: metrics(logs / name, "train/packing_efficiency") for name in EQUAL_LENGTHS}
    tokens = [share * 2048 for share in streams["all pairs in a stream"]]
    counts = [t / (share * 48) for t, share in zip(tokens, streams["one pair a stream"], strict=True)]
    assert counts == pytest.approx([round(count) for count in counts])
    assert set(map(round, counts)) <= {15, 16}  # neighbours may have the same prompt, and share a stream
    assert [round(count) for count in counts].count(16) >= STEPS // 2
    losses = [metrics(logs / name, "train/loss") for name in EQUAL_LENGTHS]
    assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE)
    weights = [full_tensors(checkpoint(logs / name)) for name in EQUAL_LENGTHS]
    assert max(relative_difference(weights[0][key], weights[1][key]) for key in weights[1]) < TOLERANCE


@pytest.mark.parametrize("name", FROM_FOLDERS)
def test_a_base_model_from_its_folder_trains_alike_at_every_layout(logs: Logs, name: str) -> None:
    one = name.split(":")[0]
    assert metrics(logs / name, "train/loss") == pytest.approx(metrics(logs / one, "train/loss"), rel=TOLERANCE)
    assert metrics(logs / name, "train/grad_norm") == pytest.approx(
        metrics(logs / one, "train/grad_norm"), rel=TOLERANCE
    )
    expected, found = (full_tensors(checkpoint(log_dir, 3)) for log_dir in (logs / one, logs / name))
    assert expected.keys() == found.keys()
    assert max(relative_difference(found[key], expected[key]) for key in expected) < TOLERANCE


@pytest.mark.parametrize("name", [*NAMES, *(name for named in FOLDERS.values() for name in named)])
def test_every_setting_of_a_layout_reaches_megatron(logs: Logs, name: str) -> None:
    settings = load_settings("config", [], str(logs / name))
    model, stages = settings.model, settings.model.pipeline_model_parallel_size
    for rank in range(settings.world_size):
        found = json.loads((logs / name / f"state-{rank}.json").read_text())
        assert found["layout"] == {
            "tensor": model.tensor_model_parallel_size,
            "pipeline": stages,
            "parts": model.virtual_pipeline_model_parallel_size or 1,
            "context": model.context_parallel_size,
            "experts": model.expert_model_parallel_size,
            "layers": stage_layers(model, SHAPES.get(name.split(":")[0], {}).get("num_hidden_layers", 4))[
                found["pipeline_rank"]
            ],
            "recompute": [
                model.activations_checkpoint_granularity,
                model.activations_checkpoint_method,
                model.activations_checkpoint_num_layers,
            ],
            "instances": model.optim.num_distributed_optimizer_instances,
            "grad_reduce_in_fp32": model.optim.grad_reduce_in_fp32,
            "overlaps": [bool(model.optim.overlap_grad_reduce), bool(model.optim.overlap_param_gather)],
            "casts_weights_anew": True,
            "next_pipeline_rank": (rank + settings.world_size // stages) % settings.world_size,
        }


@pytest.mark.runs("initial", "other seed")
def test_the_seed_decides_the_initial_weights(logs: Logs) -> None:
    one, other = (full_tensors(checkpoint(logs / name, 1)) for name in ("initial", "other seed"))
    assert relative_difference(one["module.output_layer.weight"], other["module.output_layer.weight"]) > 1


def test_no_pair_is_counted_twice(logs: Logs) -> None:
    for num_ranks in LAYOUTS:
        shown = logs.output(num_ranks)
        counted = re.findall(r"validation held_out: .* of ([\d,]+) pairs$", shown, re.MULTILINE)
        assert set(counted) == {"37"}


def pairs_of(dataset: Path, file: str) -> PairSet:
    return open_set(str(dataset / file), load_tokenizer(str(dataset / "tokenizer"), None))


@pytest.mark.runs("initial")
def test_validation_equals_transformers_over_every_pair(logs: Logs, dataset: Path) -> None:
    pairs = pairs_of(dataset, "random_val.parquet")
    with torch.no_grad():
        rewards = padded_rewards(hf_model_of(logs / "initial", 1), whole_sequences(pairs, range(37)))
    chosen, rejected = rewards[0::2], rewards[1::2]
    expected = {
        "loss": -torch.nn.functional.logsigmoid(chosen - rejected).mean(),
        "accuracy": (chosen > rejected).float().mean(),
        "reward_chosen": chosen.mean(),
        "reward_rejected": rejected.mean(),
        "margin": (chosen - rejected).mean(),
        "ties": (chosen == rejected).sum(),
    }
    for key, value in expected.items():
        assert metrics(logs / "initial", f"val/held_out/{key}") == pytest.approx([value.item()], abs=1e-5)
    assert len(pairs.epoch) == 37


@pytest.mark.runs("initial", "twenty steps")
def test_twenty_steps_equal_a_plain_pytorch_loop_over_transformers(logs: Logs, dataset: Path) -> None:
    hf = hf_model_of(logs / "initial", 1)
    pairs = pairs_of(dataset, "random.parquet")
    expected = plain_loop(hf, pairs, steps=20, batch=16, seed=1234, lr=1e-4)
    untrained = plain_loop(hf_model_of(logs / "initial", 1), pairs, steps=20, batch=16, seed=1234, lr=0.0)
    assert metrics(logs / "twenty steps", "train/loss") == pytest.approx(expected, abs=1e-4)
    assert (
        max(abs(a - b) for a, b in zip(expected, untrained, strict=True)) > 200 * 1e-4
    )  # which no training misses far


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.runs("one stream")
def test_losses_equal_one_ranks(logs: Logs, name: str) -> None:
    expected, found = metrics(logs / "one stream", "train/loss"), metrics(logs / name, "train/loss")
    assert len(expected) == len(found) == STEPS
    assert expected[0] != expected[-1]
    assert found == pytest.approx(expected, rel=TOLERANCE)
    norms = (metrics(logs / layout, "train/grad_norm") for layout in (name, "one stream"))
    assert next(norms) == pytest.approx(next(norms), rel=TOLERANCE)


@pytest.mark.parametrize("name", [name for named in BF16.values() for name in named])
@pytest.mark.runs("one stream")
def test_losses_in_bf16_are_nearly_those_in_fp32(logs: Logs, name: str) -> None:
    """A bf16 number has 8 bits: 4e-3 from one to the next."""
    expected, found = metrics(logs / "one stream", "train/loss")[:3], metrics(logs / name, "train/loss")
    assert found == pytest.approx(expected, rel=4e-3)
    assert found != pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.runs("one stream")
def test_weights_equal_one_ranks(logs: Logs, name: str) -> None:
    expected, found = (full_tensors(checkpoint(logs / layout)) for layout in ("one stream", name))
    assert expected.keys() == found.keys()
    assert {key: relative_difference(found[key], expected[key]) for key in expected} == pytest.approx(
        dict.fromkeys(expected, 0.0), abs=TOLERANCE
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.runs("one stream")
def test_validation_counts_every_pair_once(logs: Logs, name: str) -> None:
    for key in ("loss", "accuracy", "reward_chosen", "reward_rejected", "margin", "ties"):
        expected, found = (metrics(logs / layout, f"val/held_out/{key}") for layout in ("one stream", name))
        assert found[-1] == pytest.approx(expected[-1], rel=1e-4, abs=1e-5)

"""nemo-bt plan, run in this process: no GPU, no NeMo, no weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.checks import hf_config_of
from nemo_bt.cli import run
from nemo_bt.config import load_settings_of
from nemo_bt.flops import LayerShape, training_flops
from nemo_bt.plan.activations import StreamRows
from nemo_bt.plan.parameters import rank_parameters
from nemo_bt.plan.settings import PlanRun
from nemo_bt.plan.shape import model_shape
from nemo_bt.plan.streams import StreamLoad, drawn_pairs, streams_of_step, typical_step
from nemo_bt.plan.time import stage_time
from nemo_bt.plan.traffic import bytes_sent, group_sizes, step_traffic
from tests.runs import nemo_bt

SEVENTY_B = ["model=llama3_70b", "trainer.num_nodes=8", "trainer.devices=8", "cluster=h100"]
FEW = ["plan.tensor_model_parallel_size=[4,8,64]", "plan.pipeline_model_parallel_size=[1,4]"]
FEW += ["plan.virtual_pipeline_model_parallel_size=[null]", "plan.context_parallel_size=[1,2]"]
FEW += ["plan.recompute_layers=[0,1]"]


def plan_run_of(*overrides: str) -> PlanRun:
    return load_settings_of(PlanRun, "plan", overrides)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What --json says of a few layouts of a 70 B model on 64 devices."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nemo_bt.plan.command.Terminal.line", lambda _, text: lines.append(text))
        assert run(["plan", "--json", *SEVENTY_B, *FEW]) == 0
    return json.loads("".join(lines))


def test_every_layout_is_there_once_with_its_time_or_its_reason(shown: dict[str, Any]) -> None:
    assert shown["world_size"] == 64
    layouts = [json.dumps(one["layout"]) for one in shown["fits"] + shown["rejected"]]
    assert len(layouts) == len(set(layouts)) == 3 * 2 * 2 * 2
    times = [one["time_s"]["total"] for one in shown["fits"]]
    assert times == sorted(times)
    assert all(one["reason"] for one in shown["rejected"])


def test_a_layout_that_does_not_divide_is_named_with_its_equation(shown: dict[str, Any]) -> None:
    (reason,) = {
        one["reason"]
        for one in shown["rejected"]
        if one["layout"]["tensor_model_parallel_size"] == 64
        and one["layout"]["context_parallel_size"] == 2
        and one["layout"]["pipeline_model_parallel_size"] == 1
    }
    assert "world size 64" in reason
    assert "128 (tensor_model_parallel_size=64" in reason


def test_what_fits_depends_on_the_memory_of_a_device(shown: dict[str, Any]) -> None:
    room = shown["cluster"]["memory_bytes"] - shown["cluster"]["reserved_bytes"]
    assert max(one["memory_bytes"]["total"] for one in shown["fits"]) <= room
    too_big = [one["reason"] for one in shown["rejected"] if "GiB" in one["reason"]]
    assert too_big
    assert all("weights" in reason and f"of {room / 2**30:.1f}" in reason for reason in too_big)


def test_an_epoch_costs_its_steps(shown: dict[str, Any]) -> None:
    settings = plan_run_of(*SEVENTY_B)
    steps = settings.plan.lengths.num_pairs / settings.model.global_batch_size
    for one in shown["fits"]:
        assert one["hours_per_epoch"] == pytest.approx(steps * one["time_s"]["total"] / 3600)
        assert one["device_hours_per_epoch"] == pytest.approx(64 * one["hours_per_epoch"])


def test_the_table_names_the_fastest_layout_as_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *SEVENTY_B, *FEW, "--rows", "3"]) == 0
    text = capsys.readouterr().out
    assert "64 x h100" in text
    fastest = text.splitlines()[-1]
    settings = load_settings_of(PlanRun, "plan", [*SEVENTY_B, *fastest.split()])
    first_row = next(line for line in text.splitlines() if "DP" in line)
    assert f"TP{settings.model.tensor_model_parallel_size} " in first_row


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster=h99"], "Could not find 'cluster/h99'"),
        (["cluster.flops=0"], "cluster.flops: expected more than 0, got 0.0."),
        (["cluster.matmul_efficiency=1.5"], "expected a share"),
        (["plan.context_parallel_size=[0]"], "plan.context_parallel_size: expected numbers from 1, got [0]."),
        (["plan.context_parallel_size=[]"], "plan.context_parallel_size: expected numbers from 1, got []."),
        (["plan.lengths.quantiles=[0,1]"], "that rise, of one length"),
        (["plan.lenghts.num_pairs=3"], "Did you mean plan.lengths.num_pairs?"),
        (["model.data.tokens_per_micro_batch=1000"], "937 + 2 x 625 = 2187"),
        (["model.peft.peft_scheme=lora"], "a plan counts full training"),
        (["--rows", "0"], "--rows: expected 1 or more, got 0."),
        (["model.restore_from_path=nowhere"], "nowhere"),
    ],
)
def test_a_mistake_ends_with_status_2(capsys: pytest.CaptureFixture[str], overrides: list[str], message: str) -> None:
    start = ["plan", "trainer.devices=8"] + ([] if "restore_from_path" in overrides[0] else ["model=llama3_8b"])
    assert run([*start, *overrides]) == 2
    assert message in capsys.readouterr().err


def test_drawn_lengths_have_the_quantiles_that_were_given() -> None:
    settings = plan_run_of("model=llama3_8b", "model.global_batch_size=40000")
    lengths = settings.plan.lengths
    parts = drawn_pairs(lengths, settings).parts_of_step(0)
    for quantile, tokens in zip(lengths.quantiles, lengths.response_tokens, strict=True):
        below = (parts.tokens_P2 <= round(tokens)).mean()
        assert below == pytest.approx(quantile, abs=0.02)


def test_every_pair_of_a_step_is_in_one_stream_of_one_rank() -> None:
    settings = plan_run_of("model=llama3_8b", "trainer.devices=8", "model.context_parallel_size=2")
    pairs = drawn_pairs(settings.plan.lengths, settings)
    parts = pairs.parts_of_step(3)
    ranks = streams_of_step(settings, pairs, 3, hidden_size=4096)
    loads = [load for streams in ranks for load in streams]
    assert len(ranks) == 4
    assert sum(load.num_tokens for load in loads) == parts.prefix_tokens.sum() + parts.tokens_P2.sum()
    assert sum(load.rows.continuations for load in loads) == 2 * settings.model.global_batch_size
    assert all(load.rows.tokens % 16 == 0 and load.rows.tokens >= load.num_tokens for load in loads)


def test_flops_of_all_ranks_are_those_of_training() -> None:
    """On a machine of one FLOP/s; but for the last layer, of which scored rows alone are computed."""
    settings = plan_run_of(
        "model=llama3_8b",
        "trainer.devices=8",
        "model.tensor_model_parallel_size=2",
        "model.pipeline_model_parallel_size=2",
        "model.sequence_parallel=true",
    )
    cluster = replace(settings.cluster, flops=1.0, matmul_efficiency=1.0, attention_efficiency=1.0)
    shape = model_shape(hf_config_of(settings, None, num_tokens=1))
    load = StreamLoad(StreamRows(4096, 10, 10), num_tokens=4096, num_attended=1_000_000)
    times = [
        stage_time(settings, shape, cluster, stage, rank_parameters(shape, settings.model, stage), load, 3)
        for stage in (0, 1)
    ]
    whole = LayerShape(32, 4096, 4096, 1024, 14336, 3)
    all_layers = training_flops(whole, 3 * 4096, 0)
    outputs = 4096 * 4096 + 3 * 4096 * 14336
    assert 2 * sum(time.matmul for time in times) == pytest.approx(all_layers - 3 * 6 * outputs * (4096 - 10))
    forward = 4 * 4096 * 3 * 1_000_000 * 31
    assert 2 * sum(time.attention for time in times) == pytest.approx(3.5 * forward)


def test_messages_take_the_time_of_their_link() -> None:
    """Tensor parallelism inside a node, data parallelism across nodes."""
    settings = plan_run_of(
        "model=llama3_8b", "trainer.devices=2", "trainer.num_nodes=2", "model.tensor_model_parallel_size=2"
    )
    links = {"node_bytes_per_s": 10.0, "node_latency_s": 0.0, "network_bytes_per_s": 1.0, "network_latency_s": 5.0}
    shape = model_shape(hf_config_of(settings, None, num_tokens=1))
    parameters = rank_parameters(shape, settings.model, 0)
    load = StreamLoad(StreamRows(512, 4, 4), num_tokens=512, num_attended=1000)
    time = stage_time(settings, shape, replace(settings.cluster, **links), 0, parameters, load, 2)
    sizes = group_sizes(settings)
    sent = step_traffic(settings, shape, parameters, 0, [load.rows, load.rows])
    inside = sum(count * bytes_sent(one, 2) for one, count in sent.items() if one.group == "tp")
    across = {one: count for one, count in sent.items() if one.group != "tp"}
    assert {one.group for one in across} == {"intra_dp_cp", "dp_cp", "instance"}
    assert time.messages == pytest.approx(inside / 10)
    seconds = sum(count * (5 + bytes_sent(one, sizes[one.group])) for one, count in across.items())
    assert time.gradients == pytest.approx(seconds)


def test_a_plan_reads_the_data_that_it_is_given(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [f"model.data.train={dataset / 'random.parquet'}", f"model.tokenizer.type={dataset / 'tokenizer'}"]
    assert (
        run(["plan", "model=llama3_8b", "trainer.devices=8", *data, *FEW, "--json", "model.global_batch_size=16"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    steps = [one["hours_per_epoch"] * 3600 / one["time_s"]["total"] for one in found["fits"]]
    assert steps
    assert steps == pytest.approx([100 / 16] * len(steps))


def test_typical_steps_have_the_tokens_of_the_data() -> None:
    settings = plan_run_of("model=llama3_8b", "trainer.devices=8", "model.pipeline_model_parallel_size=2")
    pairs = drawn_pairs(settings.plan.lengths, settings)
    step = typical_step(settings, pairs, num_steps=2, hidden_size=4096)
    tokens = [pairs.parts_of_step(number) for number in (0, 1)]
    assert step.tokens_per_step == sum(p.prefix_tokens.sum() + p.tokens_P2.sum() for p in tokens) / 2
    assert len(step.stream_tokens) == 2 * 4 * step.num_streams


def test_of_a_model_on_the_hub_its_configuration_is_enough(tmp_path: Path) -> None:
    """A Mixtral in a cache as huggingface_hub lays it out, without weights; experts shared out or not."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--org--mixtral"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    few = [
        "plan.tensor_model_parallel_size=[1,2]",
        "plan.expert_model_parallel_size=[1,8]",
        "plan.recompute_layers=[0]",
    ]
    few += ["plan.pipeline_model_parallel_size=[2]", "plan.virtual_pipeline_model_parallel_size=[null]"]
    model = [
        "model.restore_from_path=org/mixtral",
        "trainer.devices=8",
        "trainer.num_nodes=4",
        "cluster.memory_bytes=1e13",
    ]
    env = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    result = nemo_bt("plan", "--json", *model, *few, "plan.context_parallel_size=[1]", **env)
    found = json.loads(result.stdout)
    memory = {
        (one["layout"]["tensor_model_parallel_size"], one["layout"]["expert_model_parallel_size"]): one["memory_bytes"]
        for one in found["fits"]
    }
    assert memory[1, 8]["weights"] < memory[1, 1]["weights"] / 4
    assert any("all_to_all" in kind for one in found["fits"] for kind in one["sent_bytes"])

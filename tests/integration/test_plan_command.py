"""nemo-bt plan, run in this process: no GPU, no NeMo, no weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.cli.main import run
from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.model import Settings
from nemo_bt.config.plan import PlanRun
from nemo_bt.planning.search import LAYOUT
from tests.support.runs import nemo_bt
from tests.support.settings import plan_run_of

SEVENTY_B = ["model=llama3_70b", "trainer.num_nodes=8", "trainer.devices=8", "cluster=h100"]
FEW = ["plan.tensor_model_parallel_size=[4,8,64]", "plan.pipeline_model_parallel_size=[1,4]"]
FEW += ["plan.virtual_pipeline_model_parallel_size=[null]", "plan.context_parallel_size=[1,2]"]
FEW += ["plan.recompute_layers=[0,1]"]


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What --json says of a few layouts of a 70 B model on 64 devices."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nemo_bt.planning.command.Terminal.line", lambda _, text: lines.append(text))
        assert run(["plan", "--json", *SEVENTY_B, *FEW]) == 0
    return json.loads("".join(lines))


@pytest.mark.parametrize(
    ("given", "expected"), [([], "h100"), (["cluster=h200"], "h200"), (["data=shp", "cluster=b200"], "b200")]
)
def test_a_recipe_is_planned_for_a_cluster(given: list[str], expected: str) -> None:
    run = load_settings_of(PlanRun, "recipe/llama3_70b", given)
    assert run.cluster.name == expected
    assert run.cluster.compute_capability == {"h100": (9, 0), "h200": (9, 0), "b200": (10, 0)}[expected]


def test_every_layout_is_there_once_with_its_time_or_its_reason(shown: dict[str, Any]) -> None:
    assert shown["world_size"] == 64
    layouts = [json.dumps(one["layout"]) for one in shown["fits"] + shown["rejected"]]
    assert len(layouts) == len(set(layouts)) == 3 * 2 * 2 * 2
    times = [one["time_s"]["total"] for one in shown["fits"]]
    assert times == sorted(times)
    assert all(one["reason"] for one in shown["rejected"])
    assert shown["failures"]["between_s"] == pytest.approx(3600 * 8090 / 64)
    assert shown["failures"]["work_s"] == pytest.approx(shown["failures"]["every_n_train_steps"] * times[0])
    assert 0.97 < shown["failures"]["ettr"] < 1


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
    first_row = next(line for line in text.splitlines() if "DP" in line).split()
    needed = ["exp_manager.explicit_log_dir=unused", "model.data.train=[]"]
    trained = load_settings("train", ["model=llama3_70b", *needed, *text.splitlines()[-1].split()])
    assert f"TP{trained.model.tensor_model_parallel_size}" in first_row
    assert f"DP{trained.data_parallel_size}" in first_row
    planned = plan_run_of(*SEVENTY_B)
    layout = {key: getattr(trained.model, key) for key in LAYOUT}
    given = replace(trained.exp_manager, explicit_log_dir=None)
    assert replace(trained, exp_manager=given) == Settings(
        trainer=planned.trainer, exp_manager=planned.exp_manager, model=replace(planned.model, **layout)
    )


def test_fp8_adapters_and_an_offloaded_optimizer_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    few = [
        "plan.tensor_model_parallel_size=[1,2]",
        "plan.pipeline_model_parallel_size=[1]",
        "plan.recompute_layers=[0]",
    ]
    start = ["plan", "model=llama3_8b", "trainer.devices=8", "plan.context_parallel_size=[1]", *few]
    start += ["plan.virtual_pipeline_model_parallel_size=[null]"]
    told, columns = {}, {}
    for name, more in {
        "plain": [],
        "FP8": ["model.fp8=hybrid"],
        "adapters": ["model.peft.peft_scheme=lora", "model.peft.lora_tuning.adapter_dim=8"],
        "offloaded": ["model.optim.optimizer_cpu_offload=true"],
    }.items():
        assert run([*start, *more]) == 0
        text = capsys.readouterr().out
        told[name] = " ".join(text.split())
        columns[name] = next(line for line in text.splitlines() if "step s" in line)
    assert "bf16-mixed, linear layers in FP8 (tensorwise)" in told["FP8"]
    assert "adapters of rank 8: linear_qkv, linear_proj, linear_fc1, linear_fc2" in told["adapters"]
    assert "seconds leave out what the host does" in told["offloaded"]
    assert {name: ("copies" in line, "host" in line) for name, line in columns.items()} == {
        "plain": (False, False),
        "FP8": (True, False),
        "adapters": (False, False),
        "offloaded": (False, True),
    }


def test_an_adapter_beside_no_layer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    lora = ["model.peft.peft_scheme=lora", "model.peft.lora_tuning.target_modules=[linear_q]"]
    assert run(["plan", "model=llama3_8b", "trainer.devices=8", *FEW, *lora]) == 0
    assert "expected some of linear_qkv, linear_proj, linear_fc1, linear_fc2, got linear_q" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster=h99"], "cluster=h99: expected one of a100, b200, h100, h200."),
        (["cluster.flops=0"], "cluster.flops: expected more than 0, got 0."),
        (["cluster.matmul_efficiency=1.5"], "cluster.matmul_efficiency: expected (0, 1], got 1.5."),
        (["cluster.reserved_bytes=1e12"], "expected more than reserved_bytes=1e+12"),
        (["trainer.precision=32"], "cluster.flops=9.89e+14 of h100 is in bf16-mixed"),
        (["trainer.precision=64"], "trainer.precision: expected one of 32, bf16-mixed, got 64."),
        (["cluster.node_bytes_per_s=null"], "h100 was measured without such a link"),
        (["model.tensor_model_parallel_size=2"], "Give plan.tensor_model_parallel_size=[2]."),
        (["model.activations_checkpoint_granularity=selective"], "plan.recompute_layers says"),
        (["plan.context_parallel_size=[0]"], "plan.context_parallel_size[0]: expected 1 or more, got 0."),
        (["plan.context_parallel_size=[]"], "plan.context_parallel_size: expected at least one value, got []."),
        (["plan.lengths.quantiles=[0,1]"], "all rising and of one length"),
        (["plan.lengths.quantiles=[5,6,7,8,9]"], "expected quantiles from 0 to 1"),
        (["plan.lengths.response_tokens=[1,2,3,4,nan]"], "plan.lengths.response_tokens[4]: "),
        (["plan.lengths.prefix_tokens=[-5,0,1,2,3]"], "prefixes of 0 or more, got -5"),
        (["plan.lenghts.num_pairs=3"], "unknown key plan.lenghts.num_pairs. Did you mean plan.lengths.num_pairs?"),
        (["model.data.tokens_per_micro_batch=1000"], "937 + 2 x 625 = 2187"),
        (["model.fp8=hybrid", "cluster=a100"], "expected cluster.fp8_flops, the data sheet's dense FLOP/s in FP8"),
        (["--rows", "0"], "--rows: expected 1 or more, got 0."),
        (["model.restore_from_path=nowhere"], "nowhere"),
    ],
)
def test_a_mistake_ends_with_status_2(capsys: pytest.CaptureFixture[str], overrides: list[str], message: str) -> None:
    start = ["plan", "trainer.devices=8"] + ([] if "restore_from_path" in overrides[0] else ["model=llama3_8b"])
    assert run([*start, *overrides]) == 2
    assert message in capsys.readouterr().err


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

"""Layouts that cannot work are refused with the equation, before NeMo is imported."""

import json
from pathlib import Path

import pytest

from nemo_bt.config.device import check_device
from nemo_bt.config.load import load_settings
from nemo_bt.config.parallelism import overlaps, stage_layers
from nemo_bt.errors import UserError
from nemo_bt.training.checks import check_settings
from tests.support.settings import NEEDED, settings_of

TP, PP, VPP, CP, EP = (
    f"model.{name}_parallel_size"
    for name in ("tensor_model", "pipeline_model", "virtual_pipeline_model", "context", "expert_model")
)
FIRST, LAST = "model.num_layers_in_first_pipeline_stage", "model.num_layers_in_last_pipeline_stage"
FP8 = ["model.fp8=hybrid", "trainer.precision=bf16-mixed", "trainer.accelerator=gpu"]
GATHER = "model.fp8_param_gather=true"
RECOMPUTE = "model.activations_checkpoint"
ZERO = "model.optim.name=distributed_fused_adam"
LORA = "model.peft.lora_tuning"
MIXTRAL = {
    "model_type": "mixtral",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "vocab_size": 384,
}
GEMMA2 = {name: value for name, value in MIXTRAL.items() if "experts" not in name} | {"model_type": "gemma2"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.devices=6", f"{TP}=2", f"{CP}=2"],
            r"world size 6 .* is not a multiple of 4 \(tensor_model_parallel_size=2 x pipeline_model_parallel_size=1 x "
            r"context_parallel_size=2\)",
        ),
        ([f"{CP}=0"], r"context_parallel_size: expected more than 0, got 0"),
        (
            [f"{VPP}=2"],
            r"virtual_pipeline_model_parallel_size=2 with pipeline_model_parallel_size=1: expected 2 or more",
        ),
        (["trainer.devices=2", f"{PP}=2", f"{VPP}=1"], r"virtual_pipeline_model_parallel_size=1 with .*=2: expected 2"),
        (
            ["trainer.devices=2", f"{PP}=2", f"{VPP}=2", f"{FIRST}=2", f"{LAST}=2"],
            r"num_layers_in_first_pipeline_stage=2 and .*=2 with .*=2 and two stages: give one of them",
        ),
        (["trainer.devices=2", f"{PP}=2", f"{VPP}=3"], r"pipeline stage=2 is not a multiple of .*=3"),
        (
            ["trainer.devices=2", f"{PP}=2", f"{FIRST}=1", f"{LAST}=2"],
            r"num_layers=4 minus 1 and 2 .* are 1 layers for",
        ),
        (["trainer.devices=4", f"{PP}=4", f"{FIRST}=2", f"{LAST}=2"], r"are 0 layers for the other 2 of .*=4 stages"),
        (["trainer.devices=4", f"{PP}=4", f"{FIRST}=2"], r"minus 2 .* are 2 layers for the other 3 of .*=4 stages"),
        ([f"{FIRST}=4"], r"minus 4 .* are 0 layers for the other 0 of pipeline_model_parallel_size=1 stages"),
        (["trainer.devices=2", f"{EP}=2"], r"expert_model_parallel_size=2 needs a model with experts"),
        ([f"{RECOMPUTE}_granularity=some"], r"granularity: expected selective, full or null, got some"),
        ([f"{RECOMPUTE}_granularity=full", f"{RECOMPUTE}_method=block"], r"num_layers=None: full needs a method"),
        ([f"{RECOMPUTE}_method=block", f"{RECOMPUTE}_num_layers=1"], r"granularity=None, .*leave both out"),
        (
            [f"{RECOMPUTE}_granularity=full", f"{RECOMPUTE}_method=all"],
            r"method: expected uniform, block or null, got all",
        ),
        (
            [f"{RECOMPUTE}_granularity=full", f"{RECOMPUTE}_method=block", f"{RECOMPUTE}_num_layers=5"],
            r"num_layers: expected 1 to 4, the layers of a stage, got 5",
        ),
        (
            [f"{RECOMPUTE}_granularity=full", f"{RECOMPUTE}_method=uniform", f"{RECOMPUTE}_num_layers=3"],
            r"num_layers of a part of the pipeline=4 is not a multiple of .*num_layers=3 \(4 / 3 = 1.333\)",
        ),
        (
            ["model.optim.num_distributed_optimizer_instances=2"],
            r"instances=2 needs .*distributed_fused_adam, got adam",
        ),
        (
            ["trainer.devices=3", ZERO, "model.optim.num_distributed_optimizer_instances=2"],
            r"3 data- and context-parallel ranks are not a multiple of .*instances=2",
        ),
        (["model.optim.exp_avg_dtype=bf16"], r"exp_avg_dtype=bf16 needs .*use_precision_aware_optimizer=true"),
        (
            [ZERO, "model.optim.overlap_param_gather=true", "model.optim.overlap_grad_reduce=false"],
            r"needs .*=distributed_fused_adam and not overlap_grad_reduce=false",
        ),
        (["model.optim.bucket_size=1000"], r"bucket_size=1000 is of gradients .*: set .*overlap_grad_reduce=true too"),
        (
            [ZERO, "model.optim.overlap_grad_reduce=false", "model.optim.bucket_size=1000"],
            r"bucket_size=1000 is of gradients .*: set .*overlap_grad_reduce=true too",
        ),
        ([GATHER], r"fp8_param_gather=true needs model\.fp8, got null"),
        ([*FP8, GATHER], r"fp8_param_gather=true needs .*=distributed_fused_adam, got adam"),
        ([*FP8, GATHER, ZERO, "model.fp8_recipe=mxfp8"], r"=mxfp8: weights cannot be cast to it"),
        ([*FP8, GATHER, ZERO, "model.optim.optimizer_cpu_offload=true"], r"the host has no weights in FP8"),
        (
            [*FP8, GATHER, ZERO, "model.fp8_recipe=delayed", "model.optim.use_precision_aware_optimizer=true"],
            r"main copy of its own\. Set model\.fp8_recipe=tensorwise",
        ),
        (["model.optim.main_grads_dtype=fp8"], r"main_grads_dtype: expected one of fp32, bf16, got fp8"),
        (
            ["model.optim.use_precision_aware_optimizer=true"],
            r"needs model\.optim\.name=distributed_fused_adam, got adam",
        ),
        (["model.optim.optimizer_offload_fraction=0"], r"optimizer_offload_fraction: expected \(0, 1\], got 0"),
        (
            ["trainer.devices=4", f"{PP}=2", f"{CP}=2", "model.use_tp_pp_dp_mapping=true"],
            r"use_tp_pp_dp_mapping=true with pipeline_model_parallel_size=2 needs context_parallel_size=2 = .*size=1",
        ),
        (
            ["model.optim.optimizer_cpu_offload=true"],
            r"needs model\.optim\.name=distributed_fused_adam and moments in fp32",
        ),
        (["model.moe_aux_loss_coeff=0.1"], r"moe_aux_loss_coeff=0\.1 needs a model with experts"),
        (["model.moe_aux_loss_coeff=-1"], r"moe_aux_loss_coeff: expected 0 or more, got -1"),
        (["model.peft.peft_scheme=dora"], r"peft_scheme: expected lora or null, got dora"),
        (["model.peft.peft_scheme=lora"], r"lora needs a model to adapt: set model\.restore_from_path"),
    ],
)
def test_what_cannot_work_shows_its_numbers(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_settings(settings_of(*overrides))


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (MIXTRAL, ["trainer.devices=3", f"{EP}=3"], r"num_moe_experts=8 is not a multiple of .*=3"),
        (
            MIXTRAL,
            ["trainer.devices=2", f"{PP}=2", f"{EP}=2"],
            r"1 data- and context-parallel ranks .* multiple of .*=2",
        ),
        (
            MIXTRAL,
            ["trainer.devices=4", f"{EP}=4", ZERO, "model.optim.num_distributed_optimizer_instances=2"],
            r"1 ranks that share an expert .* are not a multiple of .*instances=2",
        ),
        (
            MIXTRAL | {"model_type": "qwen3_moe", "moe_intermediate_size": 42},
            ["trainer.devices=4", f"{TP}=4", "model.sequence_parallel=true"],
            r"moe_ffn_hidden_size=42 is not a multiple of .*=4",
        ),
        (
            MIXTRAL,
            [*FP8, GATHER, ZERO, "model.peft.peft_scheme=lora", f"{LORA}.target_modules=[linear_qkv]"],
            r"=lora: these weights are not trained",
        ),
        (MIXTRAL, ["model.peft.peft_scheme=lora"], r"some of linear_qkv, linear_proj, got linear_fc1\. experts share"),
        (
            GEMMA2,
            ["model.peft.peft_scheme=lora"],
            r"some of linear_qkv, linear_fc1, got linear_proj\. its output is norm",
        ),
        (
            GEMMA2,
            ["model.peft.peft_scheme=lora", f"{LORA}.target_modules=[]"],
            r"target_modules: expected some of .*, got nothing",
        ),
        (
            GEMMA2,
            ["model.peft.peft_scheme=lora", f"{LORA}.target_modules=[linear_qkv]", f"{LORA}.adapter_dim=0"],
            r"adapter_dim: expected 1 or more, got 0",
        ),
        (
            GEMMA2,
            ["model.peft.peft_scheme=lora", f"{LORA}.target_modules=[linear_qkv]", f"{LORA}.adapter_dropout=1"],
            r"adapter_dropout: expected \[0, 1\), got 1",
        ),
        (
            GEMMA2,
            ["model.peft.peft_scheme=lora", f"{LORA}.target_modules=[linear_qkv]", f"{LORA}.alpha=0"],
            r"alpha: expected more than 0, got 0",
        ),
        (
            GEMMA2,
            [
                "trainer.devices=2",
                f"{TP}=2",
                "model.peft.peft_scheme=lora",
                f"{LORA}.target_modules=[linear_qkv]",
                f"{LORA}.adapter_dim=3",
            ],
            r"peft\.lora_tuning\.adapter_dim=3 is not a multiple of .*=2",
        ),
        (GEMMA2, [f"{LORA}.adapter_dim=3"], r"nothing is adapted\. Set model\.peft\.peft_scheme=lora"),
    ],
)
def test_a_models_parts_have_to_fit(
    config: dict[str, object], overrides: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        check_settings(load_settings("train", [*NEEDED, f"model.restore_from_path={tmp_path}", *overrides]))


def test_what_only_a_gpu_does_is_refused_on_a_cpu() -> None:
    settings = settings_of("model.optim.optimizer_cpu_offload=true")
    check_device(settings, on_gpu=True)
    with pytest.raises(UserError, match=r"optimizer_cpu_offload=true needs a GPU, and this run is on the CPU"):
        check_device(settings, on_gpu=False)


GRADIENTS, WEIGHTS = "model.optim.overlap_grad_reduce", "model.optim.overlap_param_gather"


@pytest.mark.parametrize(
    ("overrides", "on_gpu", "expected"),
    [
        ([ZERO, "trainer.devices=2"], True, (True, True)),
        ([ZERO, "trainer.devices=2", f"{CP}=2"], True, (True, True)),
        ([ZERO, "trainer.devices=2"], False, (False, False)),
        ([ZERO, "trainer.devices=2", "model.tensor_model_parallel_size=2"], True, (False, False)),
        (["trainer.devices=2"], True, (False, False)),
        ([ZERO, "trainer.devices=2", f"{GRADIENTS}=false"], True, (False, False)),
        ([ZERO, "trainer.devices=2", f"{WEIGHTS}=false"], True, (True, False)),
        ([ZERO, f"{GRADIENTS}=true"], False, (True, True)),
        ([ZERO, f"{WEIGHTS}=true"], False, (True, True)),
        ([f"{GRADIENTS}=true"], False, (True, False)),
    ],
)
def test_what_is_exchanged_while_layers_compute(
    overrides: list[str], on_gpu: bool, expected: tuple[bool, bool]
) -> None:
    assert overlaps(load_settings("train", overrides), on_gpu) == expected


def test_layers_of_each_stage() -> None:
    even, uneven = settings_of(f"{PP}=4").model, settings_of(f"{PP}=4", f"{FIRST}=6", f"{LAST}=8").model
    assert stage_layers(even, 32) == [8, 8, 8, 8]
    assert stage_layers(uneven, 32) == [6, 9, 9, 8]
    assert stage_layers(settings_of(f"{PP}=2", f"{FIRST}=1", f"{LAST}=3").model, 4) == [1, 3]
    assert stage_layers(settings_of(f"{PP}=2", f"{LAST}=3").model, 4) == [1, 3]

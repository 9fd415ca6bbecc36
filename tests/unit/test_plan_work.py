"""Seconds of linear layers in FP8 and of frozen ones, and the fullest rank of an offloaded optimizer, by hand."""

from dataclasses import replace

import pytest

from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.rows import StreamRows
from nemo_bt.planning.search import fullest_rank
from nemo_bt.planning.state import state_bytes
from nemo_bt.planning.streams import StreamLoad, drawn_pairs, steps_of
from nemo_bt.planning.time import StepTime, stage_time
from nemo_bt.training.checks import run_architecture
from tests.support.settings import plan_run_of


def times(*overrides: str) -> StepTime:
    """Of a stream through two layers of an 8 B model, of which the last has four scored rows, at one FLOP a second."""
    settings = plan_run_of("model=llama3_8b", "model.num_layers=2", *overrides)
    ones = {"flops": 1.0, "matmul_efficiency": 1.0, "attention_efficiency": 1.0}
    architecture = run_architecture(settings, None, num_tokens=1)
    parameters = rank_parameters(architecture, settings.model, 0)
    load = StreamLoad(StreamRows(512, 4, 4), num_tokens=512, num_attended=1000)
    return stage_time(settings, architecture, replace(settings.cluster, **ones), 0, parameters, load, 1)


INPUTS = 2 * 512 * 4096 * 6144
OUTPUTS, LAST_OUTPUTS = (2 * rows * (4096 * 4096 + 3 * 4096 * 14336) for rows in (512, 4))


def test_linear_layers_in_fp8_take_the_time_of_fp8() -> None:
    """And attention that of bf16; a layer at an end may stay in bf16, and four rows are sixteen in FP8."""
    plain, fp8 = times(), times("model.fp8=hybrid", "cluster.fp8_flops=4")
    assert plain.matmul == pytest.approx(3 * (2 * INPUTS + OUTPUTS + LAST_OUTPUTS))
    assert fp8.matmul == pytest.approx(3 * (2 * INPUTS + OUTPUTS + 4 * LAST_OUTPUTS) / 4)
    assert fp8.attention == plain.attention
    ends = ["model.first_last_layers_bf16=true", "model.num_layers_at_end_in_bf16=0"]
    some = times("model.fp8=hybrid", "cluster.fp8_flops=4", *ends).matmul
    assert some == pytest.approx(3 * (INPUTS + OUTPUTS) + 3 * (INPUTS + 4 * LAST_OUTPUTS) / 4)


def test_a_frozen_layer_has_one_product_in_its_backward_pass() -> None:
    """Its adapter has two, and the optimizer reads and writes what is trained."""
    lora = ["model.peft.peft_scheme=lora", "model.peft.lora_tuning.target_modules=[linear_qkv]"]
    found = times(*lora)
    adapters = 2 * 2 * 512 * 32 * (4096 + 6144)
    assert found.matmul == pytest.approx(2 * (2 * INPUTS + OUTPUTS + LAST_OUTPUTS) + 3 * adapters)
    again = times(*lora, "model.activations_checkpoint_granularity=full").matmul
    assert again == pytest.approx(3 * (2 * INPUTS + OUTPUTS + LAST_OUTPUTS) + 4 * adapters)
    assert times(*lora, "model.vocab_size=32000").memory == found.memory < times().memory / 10


def test_the_fullest_rank_is_the_one_whose_share_offloads_least() -> None:
    """Ranks offload whole parameters of their share until half of it is gone; the second of three keeps most."""
    settings = plan_run_of(
        "model=llama3_8b",
        "model.num_layers=4",
        "trainer.devices=3",
        "model.optim.overlap_grad_reduce=false",
        "model.optim.optimizer_cpu_offload=true",
        "model.optim.optimizer_offload_fraction=0.5",
    )
    architecture = run_architecture(settings, None, num_tokens=1)
    steps = steps_of(settings, drawn_pairs(settings.plan.lengths, settings), 1, architecture.hidden_size)
    parts = rank_parameters(architecture, settings.model, 0, on_gpu=True)
    states = [state_bytes(settings, parts, rank).optimizer for rank in range(3)]
    assert fullest_rank(settings, architecture, steps, 8192).optimizer == states[1] == max(states) > states[0]

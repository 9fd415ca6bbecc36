"""What a plan counts of adapters, of an offloaded optimizer, of buckets and of Transformer Engine, by hand."""

from dataclasses import replace

import pytest

from nemo_bt.config.fp8 import layers_in_fp8, num_weight_scales
from nemo_bt.planning.buffers import buffer_places, buffers, together
from nemo_bt.planning.engine import WORKSPACE_BYTES, weight_copies, workspaces
from nemo_bt.planning.parameters import Parameter, rank_parameters
from nemo_bt.planning.rows import part_layers
from nemo_bt.planning.state import StateBytes, state_bytes
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.pretrained.names import EMBEDDING
from tests.support.architectures import LLAMA3_8B
from tests.support.settings import settings_of

MIXED = ["trainer.precision=bf16-mixed", "trainer.accelerator=gpu"]
SHARED = [*MIXED, "model.optim.name=distributed_fused_adam"]
OFFLOAD = [*SHARED, "model.optim.optimizer_cpu_offload=true"]
LORA = [*MIXED, "model.peft.peft_scheme=lora", "model.peft.lora_tuning.adapter_dim=8"]
QKV, PROJECTION, FC1, FC2 = 6144 * 4096, 4096 * 4096, 28672 * 4096, 4096 * 14336
ADAPTERS = 8 * ((4096 + 6144) + (4096 + 4096) + (4096 + 28672) + (14336 + 4096))
THREE = [Parameter("a.weight", (10, 10)), Parameter("n.weight", (20,)), Parameter("b.weight", (30, 10))]


def eight_b(*overrides: str, rank: int = 0, **sizes: object) -> list[list[Parameter]]:
    return rank_parameters(architecture_of(LLAMA3_8B | sizes), settings_of(*overrides).model, rank, on_gpu=True)


def test_only_adapters_and_the_head_have_gradients_and_a_state() -> None:
    settings = settings_of(*LORA)
    parts = eight_b(*LORA)
    trained = 32 * ADAPTERS + 4096
    frozen = 128256 * 4096 + 32 * (QKV + PROJECTION + FC1 + FC2 + 2 * 4096) + 4096
    assert state_bytes(settings, parts) == StateBytes(2 * (frozen + trained), 4 * trained, 12 * trained)


def test_tensor_parallel_ranks_share_both_matrices_of_an_adapter() -> None:
    (part,) = eight_b(*LORA, "model.tensor_model_parallel_size=2", num_hidden_layers=1)
    assert [one.shape for one in part if ".adapter." in one.name] == [
        *((8, 2048), (2048, 8)),
        *((4, 4096), (3072, 8)),
        *((4, 4096), (14336, 8)),
        *((8, 7168), (2048, 8)),
    ]


def test_a_module_without_an_adapter_has_none() -> None:
    (part,) = eight_b(*LORA, "model.peft.lora_tuning.target_modules=[linear_proj]", num_hidden_layers=2)
    assert [one.shape for one in part if one.is_trained] == [(8, 4096), (4096, 8)] * 2 + [(1, 4096)]


@pytest.mark.parametrize(("fraction", "moved"), [(0.5, 300), (300 / 420, 300), (0.9, 400), (1.0, 420)])
def test_an_offloaded_optimizer_moves_whole_parameters_from_the_last_on(fraction: float, moved: int) -> None:
    """Vectors last. Of a moved one the GPU keeps the fp32 copy, and the host has that, a gradient and moments."""
    found = state_bytes(settings_of(*OFFLOAD, f"model.optim.optimizer_offload_fraction={fraction}"), [THREE])
    assert found.host == 16 * moved
    assert found.optimizer == 4 * 420 + 8 * (420 - moved)


def test_a_precision_aware_optimizer_that_is_offloaded_leaves_nothing_on_the_gpu() -> None:
    aware = [*OFFLOAD, "model.optim.use_precision_aware_optimizer=true"]
    assert state_bytes(settings_of(*aware), [THREE]).optimizer == 0
    found = state_bytes(settings_of(*aware, "model.optim.optimizer_offload_fraction=0.5"), [THREE])
    assert (found.host, found.optimizer) == (16 * 300, 12 * 120)


def test_buckets_end_with_the_parameter_that_fills_them() -> None:
    """On four ranks a bucket ends at a multiple of 128; the parameter behind it starts there."""
    assert buffer_places([100, 30], 2, 30) == ([128, 0], [128, 256])
    assert buffer_places([100, 30, 300], 4, 320) == ([384, 320, 0], [384, 512])
    assert buffer_places([100, 30], None, 30) == ([30, 0], [30, 130])


def test_a_rank_keeps_its_share_of_each_bucket() -> None:
    """Of two of 50 M and 10 M elements on one rank each, where a bucket ends with 40 M."""
    settings = settings_of(*SHARED, "trainer.devices=2", "model.optim.overlap_grad_reduce=true")
    big, small = Parameter(EMBEDDING, (50_000_000,)), Parameter("b.weight", (10_000_000,))
    (buffer,) = buffers(settings, [[small, big]])
    assert buffer.buckets == [50_000_000, 10_000_000]
    assert state_bytes(settings, [[small, big]], 1).optimizer == 12 * 30_000_000
    fewer = settings_of(*SHARED, "trainer.devices=2", "model.optim.bucket_size=5000000")
    assert buffers(fewer, [[big, small]])[0].buckets == [10_000_000, 50_000_000]
    later = buffers(settings, [[small, Parameter("a.weight", (50_000_000,))]])
    assert later[0].buckets == [60_000_000]  # only the part with the embedding is cut


def test_weights_in_fp8_are_copies_by_rows_and_by_columns() -> None:
    architecture = architecture_of(LLAMA3_8B)
    of_layer = 2 * (QKV + PROJECTION + FC1 + FC2)
    fp8 = ["model.fp8=hybrid", *MIXED]
    assert weight_copies(architecture, settings_of(*fp8).model, 0) == 32 * of_layer
    assert weight_copies(architecture, settings_of(*MIXED).model, 0) == 0
    ends = settings_of(*fp8, "model.first_last_layers_bf16=true", "model.pipeline_model_parallel_size=4").model
    assert [weight_copies(architecture, ends, rank) for rank in range(4)] == [n * of_layer for n in (7, 8, 8, 7)]
    block = settings_of(*fp8, "model.fp8_recipe=blockwise").model
    assert weight_copies(architecture, block, 0) == 32 * (of_layer + of_layer // 128**2 * 4)


def test_weights_that_are_held_in_fp8_have_a_byte_and_a_copy_by_columns() -> None:
    gathered = [*SHARED, "model.fp8=hybrid", "model.fp8_param_gather=true", "model.first_last_layers_bf16=true"]
    settings, parts = settings_of(*gathered), eight_b(*gathered)
    matrices, rest = QKV + PROJECTION + FC1 + FC2, 128256 * 4096 + (2 * 32 + 2) * 4096
    assert state_bytes(settings, parts).weights == 30 * matrices + 2 * (2 * matrices + rest)
    assert state_bytes(settings, parts) == replace(
        state_bytes(settings_of(*SHARED), eight_b(*SHARED)), weights=state_bytes(settings, parts).weights
    )
    assert weight_copies(architecture_of(LLAMA3_8B), settings.model, 0) == 30 * matrices
    block = settings_of(*gathered, "model.fp8_recipe=blockwise").model
    assert weight_copies(architecture_of(LLAMA3_8B), block, 0) == 30 * (matrices + 2 * 4 * matrices // 128**2)


def test_the_last_bucket_in_fp8_takes_the_others_of_its_part_along() -> None:
    """A table of 1,000, a matrix of 2 x 3,000 in FP8 with buckets of 3,000, and a matrix of 640 in a later part."""
    gathered = [*SHARED, "trainer.devices=2", "model.optim.bucket_size=3000"]
    first = [Parameter(EMBEDDING, (1000,)), *(Parameter("a.weight", (3000,), is_fp8=True) for _ in range(2))]
    found = buffers(settings_of(*gathered), [first, [Parameter("b.weight", (640,), is_fp8=True)]])
    sent = [(gradients, weights) for _, gradients, weights in together(found)]
    assert sent == [(4 * 3072, 3072), (4 * (3072 + 1024), 3072 + 2 * 1024), (4 * 640, 640)]


def test_scales_of_a_weight_are_counted_as_they_lie() -> None:
    assert num_weight_scales((6144, 4096), "tensorwise") == num_weight_scales((6144, 4096), "delayed") == 1
    assert num_weight_scales((6144, 4096), "blockwise") == 48 * 32
    assert num_weight_scales((130, 640), "blockwise") == 2 * 8


def test_layers_of_a_part_are_numbered_through_the_model() -> None:
    model = settings_of("model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2").model
    assert [list(part_layers(model, 8, rank, part)) for part in range(2) for rank in range(2)] == [
        *([0, 1], [2, 3]),
        *([4, 5], [6, 7]),
    ]
    ends = settings_of(
        "model.fp8=hybrid", "model.first_last_layers_bf16=true", "model.num_layers_at_start_in_bf16=2", *MIXED
    )
    assert layers_in_fp8(ends.model, 8) == range(2, 7)


def test_workspaces_and_gradients_that_nobody_reads() -> None:
    """One gradient for each shape; with adapters there is none, and experts have workspaces of their own."""
    each = 2 * (QKV + PROJECTION + FC1 + FC2)
    assert workspaces(settings_of(*MIXED), eight_b(*MIXED)) == WORKSPACE_BYTES + each
    assert workspaces(settings_of(*LORA), eight_b(*LORA)) == WORKSPACE_BYTES
    mixtral = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    assert workspaces(settings_of(*MIXED), eight_b(*MIXED, **mixtral)) == 5 * WORKSPACE_BYTES + 2 * (QKV + PROJECTION)

"""What a layer of an 8 B model keeps and computes on a GPU in FP8 and with adapters, and what it sends, by hand."""

from collections import Counter

import pytest

from nemo_bt.config.model import ModelSettings
from nemo_bt.planning.activations import Unit, part_units
from nemo_bt.planning.memory import RankMemory, rank_memory
from nemo_bt.planning.rows import StreamRows
from nemo_bt.planning.stream_traffic import StreamTraffic
from nemo_bt.pretrained.architecture import architecture_of
from tests.support.architectures import LLAMA3_8B
from tests.support.settings import settings_of

GPU = ["trainer.precision=bf16-mixed", "trainer.accelerator=gpu"]
FP8 = [*GPU, "model.fp8=hybrid"]
LORA = [*GPU, "model.peft.peft_scheme=lora", "model.peft.lora_tuning.adapter_dim=16"]
TP2 = ["model.tensor_model_parallel_size=2"]
SP2 = [*TP2, "model.sequence_parallel=true"]
T, H, K, F, HEADS, COPIED = 512, 4096, 1024, 14336, 32, 300
ROWS = StreamRows(T, 2, 2, COPIED)
NORMS = 2 * T * (2 * H + 4)
ATTENTION = 2 * (2 * T * H + 2 * (T + COPIED) * K) + 4 * T * HEADS
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}


def first_layer(*overrides: str, **sizes: object) -> Unit:
    """The first of two: all of its rows go on."""
    return units(settings_of(*overrides).model, **sizes)[1]


def units(model: ModelSettings, **sizes: object) -> list[Unit]:
    architecture = architecture_of(LLAMA3_8B | {"num_hidden_layers": 2} | sizes)
    return part_units(architecture, model, 0, 0, ROWS, dtype_bytes=2, on_gpu=True)


@pytest.mark.parametrize(
    ("recipe", "of_a_value", "of_projection"),
    [("tensorwise", 1, 2), ("delayed", 1, 1), ("blockwise", 1 + 4 / 128, 2), ("mxfp8", 1 + 1 / 32, 2)],
)
def test_in_fp8_inputs_are_kept_in_a_byte(recipe: str, of_a_value: float, of_projection: float) -> None:
    """Those of three linear layers; the fourth keeps attention's output as it is, where scales are not delayed."""
    found = first_layer(*FP8, f"model.fp8_recipe={recipe}")
    inputs = of_a_value * T * (2 * H + F) + of_projection * T * H
    assert found.kept == NORMS + ATTENTION + inputs + 2 * T * 2 * F


def test_layers_at_the_ends_can_stay_in_bf16() -> None:
    ends = settings_of(*FP8, "model.first_last_layers_bf16=true", "model.num_layers_at_end_in_bf16=0").model
    assert units(ends)[1] == first_layer(*GPU)
    assert units(ends)[2] == units(settings_of(*FP8).model)[2]


def test_a_frozen_layer_keeps_what_its_adapter_needs() -> None:
    """An adapter keeps its input and the product with its first matrix; without one there is nothing to keep."""
    plain = NORMS + ATTENTION + 2 * T * 2 * F
    every = first_layer(*LORA)
    assert every.kept == plain + 2 * T * (3 * H + F + 4 * 16)
    some = first_layer(*LORA, "model.peft.lora_tuning.target_modules=[linear_proj]")
    assert some.kept == plain + 2 * T * (H + 16)


def test_a_dropped_input_is_another_tensor_with_a_mask() -> None:
    """Of a byte for each value; Transformer Engine keeps what norms gave beside it."""
    dropped = first_layer(*LORA, "model.peft.lora_tuning.adapter_dropout=0.5").kept - first_layer(*LORA).kept
    assert dropped == T * (3 * H + F) + 2 * T * 2 * H


def test_in_fp8_a_frozen_layer_keeps_its_norms_output_once_more() -> None:
    assert first_layer(*LORA, "model.fp8=hybrid").kept - first_layer(*LORA).kept == T * 2 * H


def test_under_sequence_parallelism_an_adapter_keeps_all_rows() -> None:
    """And the layer its own half; norms and attention are halved, and so are columns of rows that all see."""
    found = first_layer(*LORA, *SP2)
    own = T // 2 * 2 * H * 2
    assert found.kept == NORMS // 2 + ATTENTION // 2 + T * 2 * F + own + 2 * T * (2 * H + H // 2 + F // 2 + 4 * 16)


def test_the_most_is_behind_the_activation_functions_backward_pass() -> None:
    """Gradients of its input and output, and the layer's; the input of the second linear layer is free by then."""
    found = first_layer(*GPU)
    assert found.in_backward == found.kept
    assert found.most == found.kept + 2 * T * (H + 3 * F) - 2 * T * F
    fp8 = first_layer(*FP8)
    assert fp8.most == fp8.kept + 2 * T * (H + 3 * F) - T * F


def test_in_the_last_layer_the_most_is_attentions() -> None:
    """Gradients of queries, keys and values and of the output, while attention's own are there."""
    last = units(settings_of(*GPU).model)[2]
    mlp = 2 * (2 * H + 4) + 2 * 2 * (H + 3 * F)  # of two scored rows, and free by then
    assert last.most == last.kept + 2 * T * H + 2 * (2 * T * H + 2 * (T + COPIED) * K) - mlp


def test_an_adapters_forward_pass_has_three_outputs_of_the_mlp_at_once() -> None:
    """The layer's, the adapter's and its multiple; SwiGLU has not computed yet."""
    found = first_layer(*LORA)
    later = 2 * T * (3 * F + 16)
    assert found.most == found.kept + 2 * T * H + 3 * 2 * T * 2 * F - later


def test_a_recomputed_layers_output_is_there_once_more() -> None:
    again = ["model.activations_checkpoint_granularity=full"]
    plain, found = first_layer(*GPU), first_layer(*GPU, *again)
    assert (found.kept, found.in_backward, found.most) == (2 * T * H, plain.kept, plain.most + 2 * T * H)


def test_the_gradient_of_the_embedding_is_of_the_whole_table() -> None:
    first = units(settings_of(*GPU).model)[0]
    assert first.most - first.kept == 2 * 128256 * H
    frozen = units(settings_of(*LORA).model)[0]
    assert frozen.most == frozen.kept


def test_experts_give_megatron_a_gradient_of_each_weight_that_nobody_reads() -> None:
    """Of the first linear layers of eight experts of 64 columns, when that of their input has been computed."""
    found = first_layer(*GPU, **MIXTRAL, intermediate_size=64)
    rows = 2 * T
    kept = NORMS + 2 * T * H + ATTENTION + 2 * T * 2 * H + 12 * T * 8 + 2 * rows * H + 16 * rows + 2 * rows * 3 * 64
    assert found.kept == kept
    assert found.most == found.kept + 2 * T * H + 2 * rows * (H + 2 * 64) + 8 * 2 * H * 2 * 64 - 2 * rows * 3 * 64


def test_of_long_streams_the_second_layers_of_experts_have_the_most() -> None:
    """Eight layers of 64 columns, before the activation function's backward pass; all is kept by then."""
    tokens = 8 * T * 8
    architecture = architecture_of(LLAMA3_8B | MIXTRAL | {"num_hidden_layers": 2, "intermediate_size": 64})
    rows = StreamRows(tokens, 2, 2)
    _, found, *_ = part_units(architecture, settings_of(*GPU).model, 0, 0, rows, dtype_bytes=2, on_gpu=True)
    assert found.most == found.kept + 2 * tokens * H + 2 * 2 * tokens * (H + 64) + 8 * 2 * H * 64


def sent(*overrides: str, **sizes: object) -> Counter[tuple[str, int]]:
    """Messages of a stream through one layer of two, but those of the ends."""
    settings = settings_of(*overrides)
    found = [
        Counter((one.operation, one.size) for one in StreamTraffic(settings, architecture, ROWS).of_part(0, 0))
        for architecture in (architecture_of(LLAMA3_8B | sizes | {"num_hidden_layers": number}) for number in (1, 2))
    ]
    return found[1] - found[0]


def test_in_fp8_rows_are_gathered_in_a_byte_and_added_up_in_two() -> None:
    rows = T * H
    assert sent(*FP8, *SP2) == {("all_gather", rows): 6, ("reduce_scatter", 2 * rows): 4}
    assert sent(*GPU, *SP2) == {("all_gather", 2 * rows): 6, ("reduce_scatter", 2 * rows): 4}
    block = rows + rows // 32
    assert sent(*FP8, "model.fp8_recipe=blockwise", *SP2) == {
        ("all_gather", block): 4,
        ("all_gather", 2 * block): 2,
        ("reduce_scatter", 2 * rows): 4,
    }


def test_delayed_scaling_sends_the_largest_values_of_every_matrix() -> None:
    """Of three forward and two backward for each of four linear layers, of two layers and not of one."""
    found = sent(*FP8, "model.fp8_recipe=delayed")
    assert found == {("all_reduce", 4 * 2 * 4 * 3): 1, ("all_reduce", 4 * 2 * 4 * 2): 1}


def test_what_is_computed_again_in_delayed_scaling_sends_its_values_again() -> None:
    """For each of two layers forward, and for each of their eight linear layers backward; or for both together."""
    full = [*FP8, "model.fp8_recipe=delayed", "model.activations_checkpoint_granularity=full"]
    assert sent(*full) == {("all_reduce", 4 * 2 * 4 * 3): 1 + 2, ("all_reduce", 4 * 2 * 4 * 2): 1 + 8}
    both = ["model.activations_checkpoint_method=uniform", "model.activations_checkpoint_num_layers=2"]
    assert sent(*full, *both) == {("all_reduce", 4 * 2 * 4 * 3): 1 + 1, ("all_reduce", 4 * 2 * 4 * 2): 1 + 8}


def test_on_a_cpu_an_adapter_gathers_its_rows_itself() -> None:
    apart = sent(*LORA, *SP2, "trainer.accelerator=cpu") - sent(*LORA, *SP2)
    assert apart == {("all_gather", 2 * T * H): 2, ("reduce_scatter", 2 * T * H): 2}


def test_an_adapter_sends_its_few_columns_and_the_whole_output() -> None:
    rows, few = 2 * T * H, 2 * T * 16
    assert sent(*LORA, *TP2) == {
        ("all_reduce", rows): 2 + 2 + 2,  # outputs of two layers; gradients of two norms, by the layer and its adapter
        ("all_gather", rows): 2,
        ("all_gather", few): 2,
        ("all_reduce", few): 2 + 4,
    }
    assert sent(*LORA, *SP2) == {
        ("all_gather", rows): 2 + 2 + 2 + 2,  # inputs; outputs of adapters; gradients of outputs, by both
        ("reduce_scatter", rows): 2 + 2,
        ("all_gather", few): 2,
        ("all_reduce", few): 2 + 4,
    }


def test_rows_that_an_adapter_reads_are_gathered_in_two_bytes() -> None:
    """In FP8 too; gradients of outputs come to the frozen layer in a byte, and to its adapter in two."""
    rows, few = T * H, 2 * T * 16
    assert sent(*LORA, "model.fp8=hybrid", *SP2) == {
        ("all_gather", 2 * rows): 2 + 2 + 2,
        ("all_gather", rows): 2,
        ("reduce_scatter", 2 * rows): 2 + 2,
        ("all_gather", few): 2,
        ("all_reduce", few): 2 + 4,
    }


def test_the_sums_of_experts_outputs_are_sent_in_fp32() -> None:
    rows = 2 * T // 2 * H  # each row of this rank's half goes to two experts
    found = sent(*GPU, *SP2, **MIXTRAL)
    assert found["reduce_scatter", 2 * 4 * rows] == found["all_gather", 2 * 4 * rows] == 1
    assert found["all_gather", 2 * 2 * rows] == found["reduce_scatter", 2 * 2 * rows] == 1


def memory(*overrides: str, stage: int) -> RankMemory:
    architecture = architecture_of(LLAMA3_8B | {"num_hidden_layers": 4})
    return rank_memory(settings_of(*overrides), architecture, stage, ROWS, num_streams=4)


def test_buffers_are_what_backward_passes_have_beyond_activations() -> None:
    """In an interleaved pipeline those of an MLP and four messages; on one rank the gradient of the embedding."""
    interleaved = ["model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2"]
    assert memory(*GPU, "trainer.devices=2", *interleaved, stage=1).buffers == 2 * T * (H + 2 * F) + 4 * 2 * T * H
    one = memory(*GPU, stage=0)
    ids_and_angles = T * 8 + T * 128 * 4
    assert one.activations + one.buffers == ids_and_angles + 2 * 128256 * H


def test_the_total_has_what_is_always_there_and_names_its_parts() -> None:
    found = memory(*FP8, stage=0)
    always = found.weights + found.gradients + found.optimizer + found.copies + found.workspaces
    assert found.total == always + found.activations + found.buffers
    assert list(found.parts.split(", "))[3].startswith("copies in FP8 1.62")
    assert "host" not in found.parts

"""What the planner counts, against published sizes and by hand; real runs are in test_layouts."""

import pytest

from nemo_bt.config.load import load_settings
from nemo_bt.config.model import Settings
from nemo_bt.planning.buffers import buffer_places
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.state import state_bytes
from nemo_bt.pretrained.architecture import architecture_of
from tests.support.architectures import LLAMA3_8B

BACKBONE = 8_030_261_248 - 128256 * 4096
"""Parameters that the model card tells, without the language model's head."""


def settings_of(*overrides: str) -> Settings:
    needed = ["exp_manager.explicit_log_dir=x", "model.data.train=x", "model.tokenizer.type=x", "trainer.devices=8"]
    return load_settings("train", ["model=llama_4x256", *needed, *overrides])


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (8, 1), (2, 4)])
def test_parameters_of_all_ranks_are_the_published_number(tp: int, pp: int) -> None:
    overrides = [f"model.tensor_model_parallel_size={tp}", f"model.pipeline_model_parallel_size={pp}"]
    parts = [rank_parameters(architecture_of(LLAMA3_8B), settings_of(*overrides).model, stage) for stage in range(pp)]
    parameters = [parameter for stage in parts for part in stage for parameter in part]
    whole = ("layernorm.weight", "layer_norm_weight", "output_layer.weight")
    elements = sum(p.num_elements * (1 if p.name.endswith(whole) else tp) for p in parameters)
    assert elements == BACKBONE + 4096


def test_a_hidden_layer_of_the_head_is_counted_where_the_head_is() -> None:
    model = settings_of("model.pipeline_model_parallel_size=2").model
    heads = [
        {p.name: p.num_elements for part in rank_parameters(architecture_of(config), model, 1) for p in part}
        for config in (LLAMA3_8B, LLAMA3_8B | {"reward_head_hidden_size": 1024})
    ]
    added = {name: number for name, number in heads[1].items() if heads[0].get(name) != number}
    assert added == {
        "output_layer.weight": 1024,
        "output_layer.bias": 1,
        "output_layer.hidden.weight": 1024 * 4096,
        "output_layer.hidden.bias": 1024,
    }


def test_bytes_of_mixed_precision() -> None:
    settings = settings_of("trainer.precision=bf16-mixed", "model.optim.name=distributed_fused_adam")
    (part,) = parts = rank_parameters(architecture_of(LLAMA3_8B), settings.model, 0)
    count = sum(parameter.num_elements for parameter in part)
    found = state_bytes(settings, parts)
    assert (found.weights, found.gradients) == (2 * count, 4 * count)
    assert sum(state_bytes(settings, parts, rank).optimizer for rank in range(8)) == 12 * count


def test_buffers_are_padded_as_megatrons() -> None:
    assert buffer_places([100, 30], 2) == ([64, 0], [256])
    assert buffer_places([100, 30], 3) == ([64, 0], [384])
    assert buffer_places([100, 30], None) == ([30, 0], [130])

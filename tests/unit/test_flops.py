"""FLOPs and peaks against numbers worked out by hand."""

from types import SimpleNamespace

import pytest

from nemo_bt.flops import LayerShape, layer_shape, peak_flops, training_flops


def test_one_layer_of_width_two() -> None:
    shape = LayerShape(1, hidden_size=2, query_size=2, key_size=2, ffn_size=2, num_ffn_matrices=3)
    assert training_flops(shape, num_tokens=10, num_attended=30) == 2400
    assert training_flops(shape, num_tokens=10, num_attended=30, is_frozen=True) == 2400 - 2 * 10 * 28


def test_llama_3_8b_is_six_flops_a_parameter_and_token() -> None:
    config = SimpleNamespace(
        num_layers=32, hidden_size=4096, num_attention_heads=32, num_query_groups=8, kv_channels=128,
        ffn_hidden_size=14336, gated_linear_unit=True, num_moe_experts=None,
    )  # fmt: skip
    parameters = 8_030_261_248 - 2 * 128_256 * 4096 - 65 * 4096  # without embeddings, output layer and norms
    assert training_flops(layer_shape(config), 1, 0) == 6 * parameters


def test_only_the_experts_of_a_token_count() -> None:
    shape = LayerShape(1, 2, 2, 2, ffn_size=2, num_ffn_matrices=3, num_active_experts=2)
    assert training_flops(shape, 1, 0) == 6 * (16 + 24)


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H200", "bf16-mixed", 989e12),
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989e12),
        ("NVIDIA H100 PCIe", "bf16-mixed", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bf16-mixed", 312e12),
        ("NVIDIA H200", "32", None),
        ("NVIDIA GeForce RTX 4090", "bf16-mixed", None),
    ],
)
def test_peak_is_known_or_none(device: str, precision: str, peak: float | None) -> None:
    assert peak_flops(device, precision) == peak

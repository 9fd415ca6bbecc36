"""FLOPs and peaks against numbers worked out by hand."""

import pytest

from nemo_bt.flops import peak_flops, training_flops
from tests.support.architectures import llama_like


def test_one_layer_of_width_two() -> None:
    one_layer = llama_like(1, hidden=2, heads=1, groups=1, head_size=2, ffn=2)
    assert training_flops(one_layer, num_tokens=10, num_attended=30) == 2400
    assert training_flops(one_layer, num_tokens=10, num_attended=30, is_frozen=True) == 2400 - 2 * 10 * 28


def test_llama_3_8b_is_six_flops_a_parameter_and_token() -> None:
    llama = llama_like(32, hidden=4096, heads=32, groups=8, head_size=128, ffn=14336)
    parameters = 8_030_261_248 - 2 * 128_256 * 4096 - 65 * 4096  # without embeddings, output layer and norms
    assert training_flops(llama, 1, 0) == 6 * parameters


def test_only_the_experts_of_a_token_count() -> None:
    experts = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    one_layer = llama_like(1, hidden=2, heads=1, groups=1, head_size=2, ffn=2, **experts)
    assert training_flops(one_layer, 1, 0) == 6 * (16 + 24)


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

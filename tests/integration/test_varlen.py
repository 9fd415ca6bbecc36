"""What kernels for sequences of different lengths are given; what they compute with it, tests/gpu compares."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_bt.model.attention.varlen import Sequences, flash_kernel, sequences_of
from tests.support.attention import ALL, HEADS, KEY_HEADS, NUM_FILLED, NUM_TOKENS, RULES, SEGMENTS, SIZE, inputs


def test_sequences_are_made_once_for_all_layers_of_a_kind() -> None:
    on_cpu = torch.device("cpu")
    first = sequences_of(SEGMENTS, 0, False, ALL, NUM_TOKENS, on_cpu)
    assert first is sequences_of(SEGMENTS.clone(), 0, False, ALL, NUM_TOKENS, on_cpu)
    assert first.query_starts.tolist() == [0, 12, 13, 21, 22, 40, 45]
    assert first.key_starts.tolist() == [0, 12, 18, 31, 32, 50, 57]
    assert first.key_rows_K[12:18].tolist() == [0, 1, 2, 3, 4, 12]
    assert (first.longest_query, first.longest_key) == (64, 64)
    other = SEGMENTS.clone()
    other[0, 4] = 2
    assert sequences_of(other, 0, False, ALL, NUM_TOKENS, on_cpu) is not first


@pytest.mark.parametrize(("name", "left"), [("all", -1), ("window", 3), ("window of one", 0)])
def test_the_flash_kernel_asks_for_causal_attention_with_the_rules_scale_and_window(
    name: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def operator(*args: Any, **kwargs: Any) -> tuple[Tensor]:
        asked.update(kwargs, args=args)
        return (args[0],)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", operator)
    found = sequences_of(SEGMENTS, RULES[name].window, False, ALL, NUM_TOKENS, torch.device("cpu"))
    flash_kernel(RULES[name])(*inputs()[0], found)
    *_, longest_query, longest_key, dropout, is_causal, _ = asked.pop("args")
    assert (longest_query, longest_key, dropout, is_causal) == (64, 64, 0.0, True)
    assert asked == {"scale": 0.3, "window_size_left": left, "window_size_right": 0}


def test_sequences_found_in_a_validation_serve_training() -> None:
    segments = SEGMENTS[:3].clone()  # that no other test asks for
    with torch.inference_mode():
        found = sequences_of(segments, 0, False, ALL, NUM_TOKENS, torch.device("cpu"))
    assert not found.key_rows_K.is_inference()


@pytest.mark.parametrize("name", ["all", "window"])
def test_torchs_operator_takes_what_the_flash_kernel_gives_it(name: str) -> None:
    """Tensors without data go through the operator and its derivative: only a GPU computes it."""
    shapes = [(NUM_FILLED, HEADS, SIZE), (57, KEY_HEADS, SIZE), (57, KEY_HEADS, SIZE)]
    tensors = [torch.empty(s, dtype=torch.bfloat16, device="meta", requires_grad=True) for s in shapes]
    starts = torch.empty(7, dtype=torch.int32, device="meta")
    found = Sequences(None, torch.empty(57, device="meta"), starts, starts, 64, 64, NUM_FILLED)
    out = flash_kernel(RULES[name])(*tensors, found)
    assert out.shape == shapes[0]
    assert [x.shape for x in torch.autograd.grad(out.sum(), tensors)] == [torch.Size(shape) for shape in shapes]

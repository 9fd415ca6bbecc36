"""Rewards on a GPU against transformers: in fp32 equal, in bf16 no farther from fp32 than transformers' bf16."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nemo_bt.batching.stream import TokenGroup, build_stream
from nemo_bt.pretrained.resolve import find_pretrained
from nemo_bt.scoring.model import open_alone, open_trained
from tests.support.gpu import DEVICE, ON_GPU
from tests.support.hf_models import SHAPES, build
from tests.support.random_groups import random_groups, sequences
from tests.support.reference import padded_rewards

DENSE = [name for name, shape in SHAPES.items() if "num_experts_per_tok" not in shape and "longrope" not in name]
IN_BF16 = ["llama3.1, head size", "qwen2.5, yarn", "gemma"]


def our_rewards(folder: Path, groups: list[TokenGroup], precision: str) -> Tensor:
    engine = open_alone(open_trained(find_pretrained(str(folder))), precision, ON_GPU)
    try:
        (reward_C,) = engine.rewards([build_stream(groups, pad_id=0)])
    finally:
        engine.close()
    return reward_C


def theirs(shape: str, groups: list[TokenGroup], dtype: torch.dtype) -> Tensor:
    model = build(shape).to(dtype)
    with torch.no_grad():
        return padded_rewards(model, sequences(groups)).float()


@pytest.mark.parametrize("shape", DENSE)
def test_rewards_in_fp32_equal_transformers(nemo: None, shape: str, tmp_path: Path) -> None:
    build(shape).save_pretrained(tmp_path)
    groups = random_groups(3, shared=True, seed=5)
    found, expected = our_rewards(tmp_path, groups, "32"), theirs(shape, groups, torch.float32)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("shape", IN_BF16)
def test_rewards_in_bf16_are_no_farther_from_fp32_than_transformers(nemo: None, shape: str, tmp_path: Path) -> None:
    """By the root of the mean square over some hundred rewards; a tenth more is the noise of that many."""
    build(shape).save_pretrained(tmp_path)
    groups = [group for seed in range(10) for group in random_groups(4, shared=True, seed=seed)]
    exact = theirs(shape, groups, torch.float32)
    ours, others = our_rewards(tmp_path, groups, "bf16-mixed"), theirs(shape, groups, torch.bfloat16)
    assert (ours - exact).norm() <= 1.1 * (others - exact).norm()
    assert DEVICE.type == "cpu" or (ours - exact).norm() > 0

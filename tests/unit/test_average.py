"""The mean of models is torch's mean of their state dicts, bit for bit after one rounding."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from nemo_bt.errors import UserError
from nemo_bt.pretrained.mean import Mean
from nemo_bt.pretrained.names import HEAD
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support.averaged import as_adapters, as_nemo, averaged
from tests.support.converted import tensors, to_hf
from tests.support.hf_models import save
from tests.support.tensors import Tensors

WEIGHTS = (0.5, 0.3, 0.2)
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def models(folder: Path, shape: str, dtype: torch.dtype, tokenizer: Any, count: int = 3) -> list[Path]:
    return [save(shape, folder / f"m{seed}", seed=seed, dtype=dtype, tokenizer=tokenizer) for seed in range(count)]


def equal_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    same = (found[name].dtype == tensor.dtype for name, tensor in expected.items())
    return all(same) and all(
        torch.equal(found[name].view(BITS[tensor.dtype]), tensor.view(BITS[tensor.dtype]))
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", ["llama3.1, head size", "phi3", "qwen3 moe"])
def test_it_is_the_mean_of_the_state_dicts(shape: str, dtype: torch.dtype, tokenizer: Any, tmp_path: Path) -> None:
    paths = models(tmp_path, shape, dtype, tokenizer)
    averaged(*paths, "--output", tmp_path / "uniform")
    averaged(*paths, "--weights", *WEIGHTS, "--output", tmp_path / "weighted")
    stacked = [{name: tensor.float() for name, tensor in tensors(path).items()} for path in paths]
    mean = {name: torch.stack([one[name] for one in stacked]).mean(0).to(dtype) for name in stacked[0]}
    weighted = {
        name: (stacked[0][name] * 0.5 + stacked[1][name] * 0.3 + stacked[2][name] * 0.2).to(dtype) for name in mean
    }
    assert equal_bits(tensors(tmp_path / "uniform"), mean)
    assert equal_bits(tensors(tmp_path / "weighted"), weighted)
    assert not equal_bits(mean, weighted)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "uniform", num_labels=1, dtype=dtype)
    assert equal_bits({name: loaded.get_parameter(name) for name in mean}, mean)


def test_a_nemo_and_a_folder_of_one_model_have_the_same_mean(tokenizer: Any, tmp_path: Path) -> None:
    paths = models(tmp_path, "qwen3", torch.float32, tokenizer)
    averaged(*paths, "--output", tmp_path / "of folders")
    nemo = [as_nemo(path, tmp_path / f"{path.name}.nemo") for path in paths]
    averaged(nemo[0], paths[1], nemo[2], "--output", tmp_path / "mixed")
    assert equal_bits(tensors(tmp_path / "mixed"), tensors(tmp_path / "of folders"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("weights", [[], ["--weights", "1"]], ids=["uniform", "of weight 1"])
def test_one_model_is_given_back_bit_for_bit(
    weights: list[str], dtype: torch.dtype, tokenizer: Any, tmp_path: Path
) -> None:
    (path,) = models(tmp_path, "qwen3", dtype, tokenizer, 1)
    averaged(path, *weights, "--output", tmp_path / "same")
    assert equal_bits(tensors(tmp_path / "same"), tensors(path))


@pytest.mark.parametrize("weights", [None, [1.0]])
def test_signs_of_zero_and_values_at_the_ends_stay(weights: list[float] | None) -> None:
    values = torch.tensor([-0.0, 0.0, 1e-45, -3e38, 1e-38, math.inf])
    assert torch.equal(Mean([Tensors({"x": values})], weights).read("x").view(torch.int32), values.view(torch.int32))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_part_has_the_bits_of_the_whole(weights: tuple[float, ...] | None) -> None:
    torch.manual_seed(0)
    mean = Mean([Tensors({"x": torch.randn(37, 41)}) for _ in range(3)], weights)
    whole = mean.read("x")
    for region in ((slice(0, 1),), (slice(5, 36), slice(3, 4)), (slice(36, 37), slice(0, 40))):
        assert torch.equal(mean.read("x", region), whole[region])


def test_a_mean_is_rounded_once() -> None:
    """1, 1 and 1 + 2^-7 in bf16 have the mean 1 + 2^-7 / 3, and a sum of 3 + 2^-7 that bf16 does not have."""
    sources = [Tensors({"x": torch.tensor([value], dtype=torch.bfloat16)}) for value in (1.0, 1.0, 1 + 2**-7)]
    exact = torch.tensor([(3 + 2**-7) / 3])
    assert torch.equal(Mean(sources).read("x"), exact.bfloat16())
    assert torch.equal(Mean(sources, dtype=torch.float32).read("x"), exact)


def test_two_dtypes_need_a_third_that_is_said(tokenizer: Any, tmp_path: Path) -> None:
    one = save("qwen3", tmp_path / "one", tokenizer=tokenizer)
    other = save("qwen3", tmp_path / "other", seed=1, dtype=torch.bfloat16, tokenizer=tokenizer)
    with pytest.raises(
        UserError, match=rf"{other}: .*: expected torch\.float32 as in {one}, found torch\.bfloat16\. Say .*--dtype"
    ):
        averaged(one, other, "--output", tmp_path / "mean")
    averaged(one, other, "--output", tmp_path / "mean", "--dtype", "bf16")
    ours, theirs = tensors(one), tensors(other)
    expected = {name: ((ours[name] + theirs[name].float()) / 2).bfloat16() for name in ours}
    assert equal_bits(tensors(tmp_path / "mean"), expected)


def test_adapters_are_merged_first(tokenizer: Any, tmp_path: Path) -> None:
    """The mean of B A is not the mean of B times the mean of A."""
    base = save("qwen3", tmp_path / "base", classifier=False, tokenizer=tokenizer)
    runs = [as_adapters(base, tmp_path / f"r{seed}.nemo", seed) for seed in range(2)]
    said = averaged(*runs, "--output", tmp_path / "mean")
    assert "adapters are merged with their base before the mean is taken, and the output is a whole model" in said
    merged = [tensors(to_hf(open_weights(find_pretrained(str(run)), 0), tmp_path / run.stem)) for run in runs]
    expected = {name: (tensor + merged[1][name]) / 2 for name, tensor in merged[0].items()}
    assert equal_bits(tensors(tmp_path / "mean"), expected)
    opened = [open_weights(find_pretrained(str(run)), 0).source for run in runs]
    name = "decoder.layers.mlp.linear_fc2"
    a, b = (
        sum(one.trained.read(f"{name}.adapter.linear_{side}.weight") for one in opened) / 2 for side in ("in", "out")
    )  # type: ignore[attr-defined]
    wrong = opened[0].base.read(f"{name}.weight") + 2 * b @ a  # type: ignore[attr-defined]
    right = Mean(opened).read(f"{name}.weight")
    assert (wrong - right).abs().max() > 0.1
    assert torch.equal(Mean(opened).read(HEAD)[0], expected["score.weight"][0])


def test_adapters_of_other_ranks_have_a_mean_too(tokenizer: Any, tmp_path: Path) -> None:
    base = save("qwen3", tmp_path / "base", classifier=False, tokenizer=tokenizer)
    runs = [as_adapters(base, tmp_path / f"r{dim}.nemo", 0, dim) for dim in (2, 4)]
    averaged(*runs, "--output", tmp_path / "mean")
    assert find_pretrained(str(tmp_path / "mean")).adapters is None

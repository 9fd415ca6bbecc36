"""Which kernel a GPU takes, and what a user who asked for another one is told."""

from typing import Any

import pytest
import torch

from nemo_bt.model.attention.choice import Gpu, chosen_kernel, use_flash_attention_3
from nemo_bt.model.attention.segments import AttentionRule

HOPPER = Gpu((9, 0), has_engine=True, cudnn=92000)


def chosen(asked: str, size: int = 128, dtype: torch.dtype = torch.bfloat16, gpu: Any = None, **rule: Any) -> Any:
    of_gpu = {"capability": (9, 0), "has_engine": True, "cudnn": 92000} | (gpu or {})
    return chosen_kernel(asked, dtype, size, AttentionRule(0.1, **rule), Gpu(**of_gpu))


def taken(asked: str, **others: Any) -> str:
    name: str = chosen(asked, **others)[0]
    return name


def test_a_gpu_takes_the_kernel_that_can() -> None:
    assert [taken(name) for name in ("auto", "flash", "fused", "local")] == ["flash", "flash", "fused", "local"]
    capabilities = [(8, 0), (10, 0), (12, 0)]
    assert [taken("fused", gpu={"capability": of}) for of in capabilities] == ["flash", "fused", "flash"]
    assert taken("fused", gpu={"has_engine": False}) == taken("fused", window=4) == "flash"
    assert [taken("fused", size=size) for size in (64, 136, 264, 20)] == ["fused", "flash", "local", "local"]
    assert [taken(name, dtype=torch.float32) for name in ("auto", "fused", "flash")] == ["local"] * 3


def test_a_soft_cap_is_one_kernel_but_for_local_and_tiny_heads() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        found = [taken(name, dtype=dtype, softcap=50.0) for name in ("auto", "flash", "fused", "local")]
        assert found == ["flex", "flex", "flex", "blocked"]
    assert [taken("auto", size=size, softcap=50.0) for size in (8, 16, 24, 256)] == ["blocked", "flex", "flex", "flex"]


@pytest.mark.parametrize("cudnn", [None, 90501, 91000, 91001])
def test_fused_is_not_computed_by_a_cudnn_that_cannot(cudnn: int | None) -> None:
    name, reason = chosen("fused", gpu={"cudnn": cudnn})
    assert name == "flash"
    found = {None: "none", 90501: "9.5.1", 91000: "9.10.0", 91001: "9.10.1"}[cudnn]
    expected = "it needs cuDNN 9.6.0 or newer, and not 9.10.0 and 9.10.1, whose attention is faulty; found "
    assert reason == expected + found


@pytest.mark.parametrize("cudnn", [90600, 91002, 92000])
def test_fused_is_computed_by_other_versions(cudnn: int) -> None:
    assert chosen("fused", gpu={"cudnn": cudnn}) == ("fused", "")


def test_blackwell_needs_a_newer_cudnn() -> None:
    of = [{"capability": (10, 0), "cudnn": cudnn} for cudnn in (90600, 90700)]
    assert [taken("fused", gpu=gpu) for gpu in of] == ["flash", "fused"]
    assert "cuDNN 9.7.0 or newer" in chosen("fused", gpu=of[0])[1]


@pytest.mark.parametrize(
    ("asked", "others", "reason"),
    [
        ("fused", {"gpu": {"has_engine": False}}, "Transformer Engine is not installed"),
        ("fused", {"gpu": {"capability": (8, 6)}}, "it needs Hopper or Blackwell, this GPU has compute capability 8.6"),
        ("fused", {"window": 4}, "it has no windows"),
        ("fused", {"softcap": 50.0}, "it has no soft cap"),
        ("flash", {"softcap": 50.0}, "it has no soft cap"),
        ("fused", {"size": 136}, "its heads have a multiple of 8 up to 128 elements, these have 136"),
        ("flash", {"size": 20}, "its heads have a multiple of 8 up to 256 elements, these have 20"),
        ("flash", {"dtype": torch.float32}, "it computes in bf16, and this run in float32"),
    ],
)
def test_who_asked_for_another_kernel_is_told_why(asked: str, others: dict[str, Any], reason: str) -> None:
    assert chosen(asked, **others)[1] == reason
    assert chosen("auto", **others)[1] == ""


def test_without_its_package_nothing_is_said() -> None:
    assert use_flash_attention_3(HOPPER) == (False, "")

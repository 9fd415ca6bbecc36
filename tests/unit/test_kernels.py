"""Norm, SwiGLU and rotation on their own, against formulas and finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from nemo_bt.cpu import kernels as cpu_kernels


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def gated(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second, behind = x.split((2, 2, 1), dim=-1)
    pairs = torch.complex(first, second) * torch.complex(cos, sin)
    return torch.cat([pairs.real, pairs.imag, behind], dim=-1)


def by_known_angles(rotation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    angle = torch.linspace(-7, 7, 10, dtype=torch.float64).view(5, 1, 2)
    return lambda x: rotation(
        x[:, 1:], angle[: len(x)].cos(), angle[: len(x)].sin()
    )  # some heads of a wider tensor, as queries are


KERNELS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "norm": (lambda x, w: cpu_kernels.rms_norm(x, w, 1e-5), normed, [(7, 1, 6), (6,)]),
    "norm of heads": (lambda x, w: cpu_kernels.rms_norm(x, w, 1e-5), normed, [(5, 1, 3, 4), (4,)]),
    "swiglu": (cpu_kernels.swiglu, gated, [(7, 1, 6)]),
    "no rows": (cpu_kernels.swiglu, gated, [(0, 1, 6)]),
    "rotation": (by_known_angles(cpu_kernels.rotate), by_known_angles(turned), [(5, 4, 5)]),
    "rotation, no rows": (by_known_angles(cpu_kernels.rotate), by_known_angles(turned), [(0, 4, 5)]),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_equal_their_formulas_in_blocks_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, formula, shapes = KERNELS[name]
    args = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    for block_elements in (1, 12, 1_000_000):
        monkeypatch.setattr(cpu_kernels, "_BLOCK_ELEMENTS", block_elements)
        torch.testing.assert_close(kernel(*args), formula(*args))
        assert gradcheck(kernel, args)


def test_kernels_of_bf16_stay_as_close_as_torchs_own() -> None:
    x: Any = torch.randn(64, 1, 32).bfloat16()
    weight = torch.randn(32).bfloat16()
    exact = normed(x.float(), weight.float())
    mine, own = cpu_kernels.rms_norm(x, weight, 1e-5), F.rms_norm(x, (32,), weight, 1e-5)
    assert mine.dtype == torch.bfloat16
    assert (mine.float() - exact).norm() <= 1.5 * (own.float() - exact).norm()
    exact = gated(x.float())
    plain = F.silu(x.chunk(2, dim=-1)[0]) * x.chunk(2, dim=-1)[1]
    assert (cpu_kernels.swiglu(x).float() - exact).norm() <= 1.5 * (plain.float() - exact).norm()

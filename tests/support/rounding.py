"""Factors of matrix products rounded to FP8 by arithmetic, with the scales of Transformer Engine's recipes.

Shape suffixes: M, K = rows and columns of a factor, summed along its rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 128


class Format(NamedTuple):
    """A float of `bits` bits behind the point, of exponents from `least` on, and of at most `most`."""

    bits: int
    least: int
    most: float


E4M3 = Format(3, -6, 448.0)
E5M2 = Format(2, -14, 57344.0)


def to_format(x: Tensor, form: Format) -> Tensor:
    """The nearest numbers of a format, of two as near the even one, and at most its largest."""
    x = x.clamp(-form.most, form.most)
    exponent = (torch.frexp(x).exponent - 1).clamp(min=form.least)
    unit = torch.ldexp(torch.ones_like(x), exponent - form.bits)
    return torch.round(x / unit) * unit


class Exact:
    """Factors as they are, in bf16."""

    multiple = 1
    rounds_norms = True

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        return x_MK

    def end_step(self) -> None: ...


class Tensorwise(Exact):
    """One scale for a tensor: its largest number becomes the format's."""

    multiple = 16

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        amax = x_MK.abs().max()
        scale = form.most / amax if amax > 0 else torch.ones(())
        return to_format(x_MK * scale, form) * (1 / scale)


class Blockwise(Exact):
    """A power of two for 1 x 128 numbers, or for 128 x 128 of a weight."""

    multiple = 128

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        out = torch.empty_like(x_MK)
        height = BLOCK if is_weight else len(x_MK)
        for first in range(0, len(x_MK), height):
            for start in range(0, x_MK.shape[1], BLOCK):
                block = x_MK[first : first + height, start : start + BLOCK]
                amax = block.abs().max() if is_weight else block.abs().amax(1, keepdim=True)
                scale = torch.where(amax > 0, 2.0 ** torch.floor(torch.log2(form.most / amax)), 1.0)
                out[first : first + height, start : start + BLOCK] = to_format(block * scale, form) / scale
        return out


@dataclass
class Delayed(Exact):
    """One scale for a tensor, from the largest number of all steps before; 1 in the first."""

    multiple = 16
    rounds_norms = False
    amax: dict[str, Tensor] = field(default_factory=dict)
    newest: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        self.newest[name] = x_MK.abs().max()
        before = self.amax.get(name, torch.zeros(()))
        scale = form.most / before if before > 0 else torch.ones(())
        return to_format(x_MK * scale, form) * (1 / scale)

    def end_step(self) -> None:
        for name, amax in self.newest.items():
            self.amax[name] = torch.maximum(amax, self.amax.get(name, torch.zeros(())))


@dataclass
class Noisy(Exact):
    """No rounding, but errors as large as that of E4M3, independent of everything."""

    seed: int

    multiple = 16

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        return x_MK * (1 + relative_error(form) * torch.randn(x_MK.shape, generator=self.random))


def relative_error(form: Format) -> float:
    """Root mean square of the error of rounding, relative to a number whose logarithm is evenly spread.

    The error is evenly spread over the distance u of neighbours: u^2 / 12. In 1 <= m < 2 it is 2^-bits, and the mean of
    1 / m^2 is (1 - 1/4) / (2 ln 2).
    """
    return float((2.0 ** (-2 * form.bits) / 12 * 0.375 / math.log(2)) ** 0.5)

"""The mean of models of one architecture, read part by part, and what a model says of being one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.pretrained.nemo_metadata import read_facts
from nemo_bt.pretrained.resolve import PretrainedSource
from nemo_bt.pretrained.source import Region, TensorInfo, TensorSource

AVERAGED_FROM = "averaged_from"
"""Key in config.json, also in the one of a .nemo: a list of `model` and `weight`."""


class Mean:
    """A `TensorSource` of the weighted mean of others, which have the same tensors.

    mean = sum_i w_i * x_i        without weights: (sum_i x_i) / n

    It is summed in fp32, in the order of the sources, and rounded once. Each operation is elementwise, so that a part
    of a tensor has the bits that it has in the whole. One source of weight 1 is given back bit for bit.

    Source: Wortsman et al. 2022 (arXiv 2203.05482), the uniform soup; Ramé et al. 2024 (arXiv 2401.12187), of rewards.

    Args:
        sources: at least one.
        weights: one for each source; None is the uniform mean.
        dtype: of the result; None keeps that of each tensor.
    """

    def __init__(
        self, sources: Sequence[TensorSource], weights: Sequence[float] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        assert weights is None or len(weights) == len(sources)
        self.sources = sources
        self.weights = weights
        self.infos = {name: TensorInfo(info.shape, dtype or info.dtype) for name, info in sources[0].infos.items()}

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read the mean of a tensor or of a part of it; two parts in fp32 are held at a time."""
        total = self._term(0, name, region)
        for number in range(1, len(self.sources)):
            total = total + self._term(number, name, region)
        if self.weights is None:
            total = total / len(self.sources)
        return total.to(self.infos[name].dtype)

    def _term(self, number: int, name: str, region: Region) -> Tensor:
        tensor = self.sources[number].read(name, region)
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        return wide if self.weights is None else wide * self.weights[number]


def check_same_tensors(sources: Mapping[str, TensorSource], dtype: torch.dtype | None) -> None:
    """Check that models, by name, have tensors of the same shapes, and of the same dtypes where none is given.

    Raises:
        UserError: they do not; the first tensor that differs is named.
    """
    (first, expected), *others = sources.items()
    for where, source in others:
        assert source.infos.keys() == expected.infos.keys(), (where, source.infos.keys() ^ expected.infos.keys())
        for name, info in source.infos.items():
            of_first = expected.infos[name]
            if info.shape != of_first.shape:
                raise UserError(
                    f"{where}: {name}: expected shape {list(of_first.shape)} as in {first}, found {list(info.shape)}."
                )
            if info.dtype != of_first.dtype and dtype is None:
                raise UserError(
                    f"{where}: {name}: expected {of_first.dtype} as in {first}, found {info.dtype}. Say in which dtype "
                    "the mean is written: --dtype bf16, fp16 or fp32."
                )


def as_averaged(parts: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Give the entry of `averaged_from` in config.json; none without models."""
    return {AVERAGED_FROM: [{"model": model, "weight": weight} for model, weight in parts]} if parts else {}


def averaged_from(pretrained: PretrainedSource) -> list[tuple[str, float]]:
    """Give models and weights that a model is the mean of; none where it is no mean, or was trained since.

    Raises:
        UserError: they are not as nemo_bt writes them.
    """
    try:
        if pretrained.nemo_file and read_facts(pretrained.nemo_file.context):
            return []
        found = pretrained.hf_config.get(AVERAGED_FROM) or []
        return [(str(one["model"]), float(one["weight"])) for one in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{pretrained.given}: {AVERAGED_FROM} of its config.json, or what it says of a training, is not as nemo_bt "
            f"writes it ({error!r}). Remove it."
        ) from error

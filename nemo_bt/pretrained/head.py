"""A reward head for weights that have none, or one made of the rows of a head that has several."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.names import EMBEDDING, HEAD, HEAD_BIAS, HF_HEAD, HIDDEN_BIAS, HIDDEN_WEIGHT, TWO_LAYER_HEAD
from nemo_bt.pretrained.source import Region, TensorInfo, TensorSource

_ROWS = (HEAD, HEAD_BIAS)
"""Tensors with a row for each reward, and the same in Hugging Face's folders."""
_HF_ROWS = (HF_HEAD, *(TWO_LAYER_HEAD[name].names[0] for name in _ROWS))


def new_head(hidden_size: int, generator: torch.Generator | None = None, num_rows: int = 1) -> Tensor:
    """Draw [num_rows, hidden_size], normal with deviation 1 / sqrt(hidden_size + 1): a row's norm is about 1.

    Source: Stiennon et al. 2020 (arXiv 2009.01325), appendix B.
    """
    return torch.randn(num_rows, hidden_size, generator=generator) / math.sqrt(hidden_size + 1)


def new_hidden_layer(hidden_size: int, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw [size, hidden_size], normal with deviation sqrt(2 / hidden_size).

    Behind a ReLU the mean square is then that of the input, so that the layer after it, drawn by `new_head`, gives
    rewards with the mean square of a linear head's. Source: He et al. 2015 (arXiv 1502.01852), section 2.2.
    """
    return torch.randn(size, hidden_size, generator=generator) * math.sqrt(2 / hidden_size)


def new_heads(
    hidden_size: int, size: int | None, num_rows: int = 1, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Draw every tensor of a head, by name; biases are zero. Without a hidden layer, `size` is None."""
    if size is None:
        return {HEAD: new_head(hidden_size, generator, num_rows)}
    return {
        HEAD: new_head(size, generator, num_rows),
        HEAD_BIAS: torch.zeros(num_rows),
        HIDDEN_WEIGHT: new_hidden_layer(hidden_size, size, generator),
        HIDDEN_BIAS: torch.zeros(size),
    }


def described(source: TensorSource) -> str:
    """Say in a few words what a head is: the norm of its last layer, and how wide a hidden one is."""
    norm = f"norm {source.read(HEAD).double().norm().item():.4f}"
    hidden = source.infos.get(HIDDEN_WEIGHT)
    return f"{norm}, hidden layer of {hidden.shape[0]}" if hidden else norm


class WithNewHead:
    """A `TensorSource` of a base model with a new head, the same on any layout.

    Args:
        source: Megatron's tensors; a language model's head in it is hidden.
        architecture: says what the head is.
        seed: decides the head and nothing else.
    """

    def __init__(self, source: TensorSource, architecture: Architecture, seed: int) -> None:
        self.source = source
        dtype = source.infos[EMBEDDING].dtype
        sizes = (architecture.hidden_size, architecture.head_hidden_size, architecture.num_head_rows)
        heads = new_heads(*sizes, torch.Generator().manual_seed(seed))
        self.heads = {name: tensor.to(dtype) for name, tensor in heads.items()}
        self.infos = source.infos | {name: TensorInfo(tuple(head.shape), dtype) for name, head in self.heads.items()}

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        return self.heads[name][region or ...] if name in self.heads else self.source.read(name, region)


def _with_rows(source: TensorSource, names: Sequence[str], num_rows: int) -> dict[str, TensorInfo]:
    """Describe tensors of which those with these names, as far as they are there, have so many rows."""
    changed = {name: source.infos[name] for name in names if name in source.infos}
    return source.infos | {name: TensorInfo((num_rows, *of.shape[1:]), of.dtype) for name, of in changed.items()}


class WithCombinedHead:
    """A `TensorSource` of a model with attributes, whose head is the weighted sum of its rows: one reward.

    Args:
        source: Megatron's tensors.
        weights: weight of each row.
    """

    def __init__(self, source: TensorSource, weights: Sequence[float]) -> None:
        self.source = source
        self.weight_1A = torch.tensor([list(weights)], dtype=torch.float64)
        self.infos = _with_rows(source, _ROWS, 1)

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        if name not in _ROWS:
            return self.source.read(name, region)
        rows = self.source.read(name)  # [A, H], or [A] of a bias
        return (self.weight_1A @ rows.double()).to(rows.dtype)[region or ...]


class WithHeadRow:
    """A `TensorSource` of a classifier of several labels, of whose head one row is the reward head.

    Args:
        source: a Hugging Face folder's tensors.
        row: the label, from 0.
        where: names the folder in messages.

    Raises:
        UserError: there is no such row.
    """

    def __init__(self, source: TensorSource, row: int, where: str) -> None:
        rows = next((source.infos[name].shape[0] for name in _HF_ROWS if name in source.infos), 0)
        if not 0 <= row < rows:
            found = f"found row 0 to {rows - 1}" if rows else f"found no {HF_HEAD}"
            raise UserError(f"{where}: expected a head with row {row}, {found}.")
        self.source = source
        self.row = row
        self.infos = _with_rows(source, _HF_ROWS, 1)

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        if name not in _HF_ROWS:
            return self.source.read(name, region)
        return self.source.read(name, (slice(self.row, self.row + 1),))[region or ...]

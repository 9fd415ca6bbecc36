"""A reward head for weights that have none, or one made of the rows of a head that has several."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.pretrained.names import EMBEDDING, HEAD, HF_HEAD
from nemo_bt.pretrained.source import Region, TensorInfo, TensorSource


def new_head(hidden_size: int, generator: torch.Generator | None = None, num_rows: int = 1) -> Tensor:
    """Draw [num_rows, hidden_size], normal with deviation 1 / sqrt(hidden_size + 1): a row's norm is about 1.

    Source: Stiennon et al. 2020 (arXiv 2009.01325), appendix B.
    """
    return torch.randn(num_rows, hidden_size, generator=generator) / math.sqrt(hidden_size + 1)


class WithNewHead:
    """A `TensorSource` of a base model with a new head, the same on any layout.

    Args:
        source: Megatron's tensors; a language model's head in it is hidden.
        seed: decides the head and nothing else.
        num_rows: attributes of the head, or 1.
    """

    def __init__(self, source: TensorSource, hidden_size: int, seed: int, num_rows: int = 1) -> None:
        self.source = source
        dtype = source.infos[EMBEDDING].dtype
        self.infos = source.infos | {HEAD: TensorInfo((num_rows, hidden_size), dtype)}
        self.head_AH = new_head(hidden_size, torch.Generator().manual_seed(seed), num_rows).to(dtype)

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        return self.head_AH[region or ...] if name == HEAD else self.source.read(name, region)


class WithCombinedHead:
    """A `TensorSource` of a model with attributes, whose head is the weighted sum of its rows: one reward.

    Args:
        source: Megatron's tensors.
        weights: weight of each row.
    """

    def __init__(self, source: TensorSource, weights: Sequence[float]) -> None:
        self.source = source
        head = source.infos[HEAD]
        self.weight_1A = torch.tensor([list(weights)], dtype=torch.float64)
        self.infos = source.infos | {HEAD: TensorInfo((1, *head.shape[1:]), head.dtype)}

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        if name != HEAD:
            return self.source.read(name, region)
        head_AH = self.source.read(HEAD)
        return (self.weight_1A @ head_AH.double()).to(head_AH.dtype)[region or ...]


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
        head = source.infos.get(HF_HEAD)
        rows = head.shape[0] if head else 0
        if head is None or not 0 <= row < rows:
            found = f"found row 0 to {rows - 1}" if rows else f"found no {HF_HEAD}"
            raise UserError(f"{where}: expected a head with row {row}, {found}.")
        self.source = source
        self.row = row
        self.infos = source.infos | {HF_HEAD: TensorInfo((1, *head.shape[1:]), head.dtype)}

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        if name != HF_HEAD:
            return self.source.read(name, region)
        return self.source.read(name, (slice(self.row, self.row + 1),))[region or ...]

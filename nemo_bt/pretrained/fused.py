"""Tensors that Megatron keeps as one and Hugging Face as several: exact inverse functions, for weights and biases.

Shape suffixes: N = query heads, G = key/value heads (groups), D = head size, F = MLP width, H = hidden size. The last
dimension H is absent for a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadShape:
    """Heads of an attention layer."""

    num_heads: int
    num_groups: int
    head_size: int


@dataclass(frozen=True)
class Fusion:
    """How one tensor of Megatron is made of tensors of Hugging Face, and taken apart again."""

    join: Callable[[Sequence[Tensor], HeadShape], Tensor]
    split: Callable[[Tensor, HeadShape], list[Tensor]]


def join_qkv(parts: Sequence[Tensor], heads: HeadShape) -> Tensor:
    """Join [N*D, H], [G*D, H], [G*D, H] to [G * (N/G + 2) * D, H]: a group's queries, its key, its value, next group.

    Source: megatron/core/transformer/attention.py, SelfAttention.get_query_key_value_tensors.
    """
    grouped = [part.reshape(heads.num_groups, -1, *part.shape[1:]) for part in parts]
    return torch.cat(grouped, dim=1).flatten(0, 1)


def split_qkv(fused: Tensor, heads: HeadShape) -> list[Tensor]:
    """Undo `join_qkv`."""
    per_group = fused.reshape(heads.num_groups, -1, *fused.shape[1:])
    query_rows = heads.num_heads // heads.num_groups * heads.head_size
    parts = torch.split(per_group, [query_rows, heads.head_size, heads.head_size], dim=1)
    return [part.flatten(0, 1) for part in parts]


def join_packed_qkv(parts: Sequence[Tensor], heads: HeadShape) -> Tensor:
    """Join [(N + 2G) * D, H], all queries before all keys before all values (Phi-3), as `join_qkv` does the three."""
    rows = [heads.num_heads * heads.head_size, *[heads.num_groups * heads.head_size] * 2]
    return join_qkv(torch.split(parts[0], rows), heads)


def split_packed_qkv(fused: Tensor, heads: HeadShape) -> list[Tensor]:
    """Undo `join_packed_qkv`."""
    return [torch.cat(split_qkv(fused, heads))]


COPY = Fusion(lambda parts, heads: parts[0], lambda fused, heads: [fused])
QKV = Fusion(join_qkv, split_qkv)
PACKED_QKV = Fusion(join_packed_qkv, split_packed_qkv)
GATE_UP = Fusion(lambda parts, heads: torch.cat(list(parts)), lambda fused, heads: list(fused.chunk(2)))
"""[F, H], [F, H] -> [2F, H], the gate first."""

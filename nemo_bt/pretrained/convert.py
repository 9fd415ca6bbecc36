"""Hugging Face's tensors seen as Megatron's, and the other way round: `nemo_bt.pretrained.names` in both directions.

Nothing is held: each read fetches the tensors that it is made of.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.names import EMBEDDING, HEADS, Parts
from nemo_bt.pretrained.source import Region, TensorInfo, TensorSource, whole


class Conversion:
    """The name table of one model, with its numbers of layers, experts, heads and tokens."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.table = architecture.table

    def depth(self, key: str) -> int:
        """Count the leading dimensions of Megatron's tensor that are layers and experts."""
        return len(self.stack(self.table[key]))

    def stack(self, parts: Parts) -> list[int]:
        """Give the leading dimensions of Megatron's tensor: layers, then experts."""
        layers = self.architecture.num_layers
        experts = self.architecture.num_experts
        return [layers] * parts.has_layers + [experts] * parts.has_experts

    def names(self, parts: Parts, index: Sequence[int]) -> list[str]:
        """Give Hugging Face's names of the tensors at one place of the stack."""
        layer, expert = [*index, 0, 0][:2]
        return [name.format(layer=layer, expert=expert) for name in parts.names]

    def join(self, key: str, tensors: Sequence[Tensor]) -> Tensor:
        """Make one place of Megatron's tensor; embeddings get rows of zeros up to `padded_vocab_size`."""
        joined = self.table[key].fusion.join(tensors, self.architecture.heads)
        if key == EMBEDDING:
            padding = joined.new_zeros(self.architecture.padded_vocab_size - len(joined), joined.shape[1])
            joined = torch.cat([joined, padding])
        return joined

    def split(self, key: str, fused: Tensor) -> list[Tensor]:
        """Undo `join`."""
        if key == EMBEDDING:
            fused = fused[: self.architecture.vocab_size]
        return self.table[key].fusion.split(fused, self.architecture.heads)


class AsMegatron:
    """A Hugging Face folder as a `TensorSource` of Megatron's stacked tensors.

    Args:
        source: has every tensor of the table, but perhaps no head.
    """

    def __init__(self, source: TensorSource, architecture: Architecture) -> None:
        self.source = source
        self.conversion = Conversion(architecture)
        self.infos = megatron_infos(source.infos, architecture)

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        parts = self.conversion.table[name]
        depth = self.conversion.depth(name)
        bounds = whole(region, self.infos[name].shape)
        inner = tuple(slice(*bound) for bound in bounds[depth:])
        places = itertools.product(*(range(*bound) for bound in bounds[:depth]))
        pieces = [self._read_place(name, parts, place)[inner] for place in places]
        stacked = pieces[0] if len(pieces) == 1 else torch.stack(pieces)  # one piece is not copied
        return stacked.reshape([stop - start for start, stop in bounds])

    def _read_place(self, key: str, parts: Parts, place: Sequence[int]) -> Tensor:
        return self.conversion.join(key, [self.source.read(name) for name in self.conversion.names(parts, place)])


def megatron_infos(hf_infos: dict[str, TensorInfo], architecture: Architecture) -> dict[str, TensorInfo]:
    """Describe the stacked tensors that Megatron makes of Hugging Face's; a head only where there is one."""
    conversion = Conversion(architecture)
    infos = {}
    for key, parts in conversion.table.items():
        if key in HEADS and parts.names[0] not in hf_infos:
            continue
        stack = conversion.stack(parts)
        names = [name for place in itertools.product(*map(range, stack)) for name in conversion.names(parts, place)]
        dtypes = {hf_infos[name].dtype: name for name in names}
        if len(dtypes) > 1:
            raise UserError(
                f"{', '.join(f'{name} is {dtype}' for dtype, name in dtypes.items())}: a NeMo checkpoint keeps them in "
                "one tensor. Convert the folder with one: nemo-bt import --dtype bf16."
            )
        first = names[: len(parts.names)]
        empty = [torch.empty(hf_infos[name].shape, dtype=hf_infos[name].dtype, device="meta") for name in first]
        infos[key] = TensorInfo((*stack, *conversion.join(key, empty).shape), hf_infos[names[0]].dtype)
    return infos


def hf_head(source: TensorSource, architecture: Architecture) -> dict[str, Tensor]:
    """Read the head of a Megatron checkpoint, under Hugging Face's names."""
    return {parts.names[0]: source.read(key) for key, parts in architecture.table.items() if key in HEADS}


class AsHf:
    """A Megatron checkpoint, with every tensor of the table, as the tensors of a Hugging Face folder."""

    def __init__(self, source: TensorSource, architecture: Architecture) -> None:
        self.source = source
        self.conversion = Conversion(architecture)

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape and dtype of every tensor, in the order of `tensors`."""
        infos = {}
        for key, place in self._places():
            parts = self.conversion.table[key]
            stored = self.source.infos[key]
            empty = torch.empty(stored.shape[len(place) :], dtype=stored.dtype, device="meta")
            split = self.conversion.split(key, empty)
            for name, tensor in zip(self.conversion.names(parts, place), split, strict=True):
                infos[name] = TensorInfo(tuple(tensor.shape), tensor.dtype)
        return infos

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Give name and data of each; one tensor of Megatron is read at a time."""
        for key, place in self._places():
            region = tuple(slice(i, i + 1) for i in place)
            fused = self.source.read(key, region)
            split = self.conversion.split(key, fused.reshape(fused.shape[len(place) :]))
            for name, tensor in zip(self.conversion.names(self.conversion.table[key], place), split, strict=True):
                yield name, tensor.contiguous()

    def _places(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Visit every tensor of the table at every layer and expert, layer by layer."""
        table = self.conversion.table
        depths = {key: self.conversion.stack(parts) for key, parts in table.items()}
        yield EMBEDDING, ()
        for layer in range(self.conversion.architecture.num_layers):
            for key, stack in depths.items():
                if stack:
                    yield from ((key, (layer, *rest)) for rest in itertools.product(*map(range, stack[1:])))
        yield from ((key, ()) for key, stack in depths.items() if not stack and key != EMBEDDING)

"""Loads weights from any `TensorSource` into a model at any layout: each rank reads the parts that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

from nemo_bt.model.reward_gpt import RewardGPT
from nemo_bt.pretrained.names import EMBEDDING, LOG_TIE
from nemo_bt.pretrained.resolve import InitialWeights


def load_weights(module: RewardGPT, initial: InitialWeights) -> None:
    """Copy into every parameter of this rank, in its dtype; names and shapes have been checked."""
    with torch.no_grad():
        for name, entry in module.sharded_state_dict().items():
            held: Any = getattr(entry, "data", None)
            is_fp8 = hasattr(held, "_quantizer")
            if is_fp8:
                entry.data = torch.empty(held.shape, dtype=held.dtype, device=held.device)
            wide = entry.data if is_fp8 else held
            parts = {name: entry}
            apply_factories(parts)
            for tensor in leaves(parts):
                if isinstance(tensor, ShardedTensor) and tensor.key != LOG_TIE:  # a new run starts from its settings
                    _copy(tensor, initial)
            if is_fp8:
                held.copy_(wide)
                held._high_precision_init_val.copy_(wide)  # what the optimizer's main copy starts from


def _copy(tensor: ShardedTensor, initial: InitialWeights) -> None:
    shape = initial.source.infos[tensor.key].shape
    rows_may_differ = tensor.key == EMBEDDING  # tables are padded to different multiples; ids stay below both
    assert rows_may_differ or shape == tensor.global_shape, (tensor.key, shape, tensor.global_shape)
    lengths = (1,) * tensor.prepend_axis_num + tuple(tensor.local_shape)
    region = tuple(
        slice(min(offset, size), min(offset + length, size))
        for offset, length, size in zip(tensor.global_offset, lengths, shape, strict=True)
    )
    part = initial.source.read(tensor.key, region).reshape(-1, *tensor.local_shape[1:])
    if rows_may_differ:
        tensor.data[len(part) :].zero_()
    tensor.data[: len(part)].copy_(part)


def leaves(tree: Any) -> Iterator[Any]:
    """Visit what a sharded state dict holds, whatever lists and dictionaries its factories have made of it."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree

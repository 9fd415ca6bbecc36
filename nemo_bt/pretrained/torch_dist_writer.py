"""Writes a Megatron distributed checkpoint from a `TensorSource`, one tensor at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save

from nemo_bt.pretrained.source import TensorSource
from nemo_bt.pretrained.torch_dist import FORMAT, PREFIX


def write_torch_dist(
    folder: Path, source: TensorSource, stacked: Callable[[str], int], progress: Callable[[int], None]
) -> None:
    """Write every tensor of `source`, stacked ones layer by layer, as the model of a checkpoint.

    Args:
        folder: `weights/` of a .nemo, which this makes.
        source: Megatron's tensors.
        stacked: counts the leading dimensions, by name, that are layers and experts.
        progress: is called with the bytes of each piece that is written.

    Raises:
        OSError: the disk does not take it.
    """
    planner = _StreamingPlanner(source, stacked, progress)
    writer = FileSystemWriter(str(folder), single_file_per_rank=True, thread_count=1)
    try:
        save({}, storage_writer=writer, planner=planner, no_dist=True)
    except CheckpointException as error:
        cause = error.failures[0][0]
        while not isinstance(cause, OSError) and cause.__context__:
            cause = cause.__context__  # torch's zip writer complains after the disk has
        raise cause from None
    torch.save({"state_dict": {}, "content_metadata": {"singleton_local_shards": False}}, folder / "common.pt")
    (folder / "metadata.json").write_text(FORMAT)


class _StreamingPlanner(DefaultSavePlanner):
    """Plans from names and shapes; fetches a tensor when the writer has come to it."""

    def __init__(self, source: TensorSource, stacked: Callable[[str], int], progress: Callable[[int], None]) -> None:
        super().__init__()
        self.source = source
        self.stacked = stacked
        self.progress = progress

    def create_local_plan(self) -> SavePlan:
        """Plan a chunk for every layer, and for every expert in it."""
        items = []
        for name, info in self.source.infos.items():
            depth = self.stacked(name)
            sizes = torch.Size((1,) * depth + info.shape[depth:])
            properties = TensorProperties(dtype=info.dtype)
            for place in itertools.product(*map(range, info.shape[:depth])):
                offsets = torch.Size((*place, *(0 for _ in info.shape[depth:])))
                chunk = ChunkStorageMetadata(offsets=offsets, sizes=sizes)
                data = TensorWriteData(chunk=chunk, properties=properties, size=torch.Size(info.shape))
                items.append(WriteItem(MetadataIndex(PREFIX + name, offsets), WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items, planner_data={})

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """Read the chunk's data, now."""
        data: Any = write_item.tensor_data
        region = tuple(
            slice(offset, offset + size) for offset, size in zip(data.chunk.offsets, data.chunk.sizes, strict=True)
        )
        tensor = self.source.read(write_item.index.fqn.removeprefix(PREFIX), region)
        self.progress(tensor.nbytes)
        return tensor.contiguous()

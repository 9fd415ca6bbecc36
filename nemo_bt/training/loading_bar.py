"""A bar while a rank reads its share of the weights, which takes minutes where they are large or far away."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from nemo_bt.config.job import ParallelSettings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.resolve import InitialWeights
from nemo_bt.pretrained.source import Region, TensorSource


class ShownReads:
    """Another source's tensors; the bar moves with every read, until the terminal gets another one.

    Args:
        source: has the tensors.
        terminal: gets the bar.
        num_ranks: ranks that share the tensors evenly, as far as one can tell.
    """

    def __init__(self, source: TensorSource, terminal: Terminal, num_ranks: int) -> None:
        self.source = source
        self.terminal = terminal
        self.infos = source.infos
        self.total_bytes = sum(info.num_bytes for info in source.infos.values()) // num_ranks
        self.done_bytes = 0

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        if not self.done_bytes:
            self.terminal.start(0, self.total_bytes // 10**6, "MB of weights")
        part = self.source.read(name, region)
        self.done_bytes += part.nbytes
        self.terminal.advance(self.done_bytes // 10**6, "")
        return part


def with_bar(initial: InitialWeights, layout: ParallelSettings, terminal: Terminal) -> InitialWeights:
    """Give the same weights, with a bar when the model of a rank is filled with them."""
    num_ranks = layout.tensor_model_parallel_size * layout.pipeline_model_parallel_size
    return replace(initial, source=ShownReads(initial.source, terminal, num_ranks))

"""A source of tensors that are in memory."""

import torch

from nemo_bt.pretrained.source import Region, TensorInfo


class Tensors:
    """Tensors of Megatron's names, in memory."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}

    def read(self, name: str, region: Region = ()) -> torch.Tensor:
        return self.tensors[name][region or ...]

"""Gradients of a model as a checkpoint would have them."""

from typing import Any

import torch

from nemo_bt.pretrained.source import TensorInfo


class InMemory:
    """A TensorSource over a dictionary."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}

    def read(self, name: str, region: tuple[slice, ...] = ()) -> torch.Tensor:
        return self.tensors[name][region or ...]


def stacked_gradients(model: Any) -> dict[str, torch.Tensor]:
    """Gradients under the names and in the shapes of a checkpoint: layers, and experts, stacked."""
    architecture = model.config.architecture
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    stacked = {}
    for key, parts in architecture.table.items():
        rest = key.removeprefix("decoder.layers.")
        layers = [f"decoder.layers.{i}.{rest}" for i in range(architecture.num_layers)]
        if parts.has_experts:
            expert_names = [
                [name.replace("experts.experts", f"experts.local_experts.{e}") for e in range(architecture.num_experts)]
                for name in layers
            ]
            stacked[key] = torch.stack([torch.stack([gradients[n] for n in names]) for names in expert_names])
        elif parts.has_layers:
            stacked[key] = torch.stack([gradients[name] for name in layers])
        else:
            stacked[key] = gradients[key]
    return stacked

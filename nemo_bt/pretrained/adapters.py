"""Weights with low-rank adapters merged into them: W + alpha / dim * B A, read part by part.

A and B lie in a checkpoint as `<layer>.adapter.linear_in.weight`, [L, dim, columns], and
`<layer>.adapter.linear_out.weight`, [L, rows, dim], beside the head; the rest is the base model's.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_bt.config.model import LoraSettings
from nemo_bt.errors import UserError
from nemo_bt.pretrained.names import HEADS, LOG_TIE
from nemo_bt.pretrained.source import Region, TensorInfo, TensorSource, whole

A_WEIGHT = ".adapter.linear_in.weight"
B_WEIGHT = ".adapter.linear_out.weight"
ADAPTERS = "adapters.json"
"""Plain data in `context/` of a checkpoint that has adapters."""


@dataclass(frozen=True)
class Adapters:
    """What a checkpoint of adapters says of itself.

    Args:
        base: the model that they belong to, as it was named.
        target_modules: layers that have an adapter.
        adapter_dim: rank.
        alpha: numerator of the factor alpha / dim.
        base_digest: `digest` of the base model's weights.
    """

    base: str
    target_modules: tuple[str, ...]
    adapter_dim: int
    alpha: float
    base_digest: str

    def write(self, context: Path) -> None:
        """Write into a checkpoint's context/."""
        (context / ADAPTERS).write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_adapters(context: Path) -> Adapters | None:
    """Read what `Adapters.write` left in a checkpoint's context/; None where it has no adapters."""
    file = context / ADAPTERS
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
        return Adapters(
            base=str(found["base"]),
            target_modules=tuple(found["target_modules"]),
            adapter_dim=int(found["adapter_dim"]),
            alpha=float(found["alpha"]),
            base_digest=str(found["base_digest"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: expected base, target_modules, adapter_dim, alpha and base_digest, got {error!r}."
        ) from error


def digest(source: TensorSource) -> str:
    """Hash names, shapes and first values of all tensors but the head: this tells one base model from another."""
    hashed = hashlib.sha256()
    for name, info in sorted(source.infos.items()):
        if name not in HEADS:
            first = source.read(name, tuple(slice(0, size) for size in (*[1] * (len(info.shape) - 1), 8)))
            hashed.update(f"{name} {info.shape} {first.flatten().tolist()}".encode())
    return hashed.hexdigest()[:32]


def check_base(base: TensorSource, adapters: Adapters, where: str) -> None:
    """Check that a base model has the weights that adapters were trained on."""
    if digest(base) != adapters.base_digest:
        raise UserError(f"{where}: its adapters belong to other weights than those that are at {adapters.base} now.")


def is_trained(name: str) -> bool:
    """Tell whether training with adapters changes a tensor: it changes the adapters and the head."""
    return ".adapter." in name or name.endswith((*HEADS, LOG_TIE))


def trained_shapes(
    infos: Mapping[str, TensorInfo], target_modules: Collection[str], adapter_dim: int
) -> dict[str, tuple[int, ...]]:
    """Give the shape of the head and of every A and B, by name; `infos` are those of the base model and a head."""
    shapes = {name: infos[name].shape for name in HEADS if name in infos}
    for name, info in infos.items():
        *_, module, last = name.split(".")
        if name.startswith("decoder.layers.") and last == "weight" and module in target_modules:
            num_layers, rows, columns = info.shape
            stem = name.removesuffix(".weight")
            shapes[stem + A_WEIGHT] = (num_layers, adapter_dim, columns)
            shapes[stem + B_WEIGHT] = (num_layers, rows, adapter_dim)
    return shapes


def trained_parameters(infos: Mapping[str, TensorInfo], lora: LoraSettings) -> str:
    """Say in one line how many parameters are trained and how many are frozen."""
    trained = sum(math.prod(shape) for shape in trained_shapes(infos, lora.target_modules, lora.adapter_dim).values())
    frozen = sum(info.num_elements for name, info in infos.items() if name not in HEADS)
    return (
        f"adapters of rank {lora.adapter_dim} and the head: {trained:,} parameters are trained, {frozen:,} are frozen"
    )


class WithAdapters:
    """A `TensorSource` of merged weights.

    Args:
        base: Megatron's tensors of the base model.
        trained: adapters and head of the checkpoint.
        where: the checkpoint, for messages.

    Raises:
        UserError: the base is another one, or an adapter is missing, belongs to no weight of it, or has another shape.
    """

    def __init__(self, base: TensorSource, trained: TensorSource, adapters: Adapters, where: str) -> None:
        self.base = base
        self.trained = trained
        self.scale = adapters.alpha / adapters.adapter_dim
        check_base(base, adapters, where)
        expected = trained_shapes(base.infos, adapters.target_modules, adapters.adapter_dim)
        found = {name: info.shape for name, info in trained.infos.items()}
        if found != expected:
            name = min({*found.items()} ^ {*expected.items()})[0]
            raise UserError(
                f"{where}: {name}: expected shape {expected.get(name)}, found {found.get(name)}: the adapters do not "
                f"fit {adapters.base}."
            )
        self.adapted = {name.removesuffix(A_WEIGHT) + ".weight" for name in expected if name.endswith(A_WEIGHT)}
        self.infos = base.infos | {name: info for name, info in trained.infos.items() if name in HEADS}
        for name in self.adapted:
            info = base.infos[name]
            added = trained.infos[name.removesuffix(".weight") + B_WEIGHT]
            self.infos[name] = TensorInfo(info.shape, torch.promote_types(info.dtype, added.dtype))

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it; a merged one has the wider of the two dtypes."""
        if name in HEADS:
            return self.trained.read(name, region)
        tensor = self.base.read(name, region)
        if name not in self.adapted:
            return tensor
        layers, rows, columns = (slice(*bounds) for bounds in whole(region, self.infos[name].shape))
        stem = name.removesuffix(".weight")
        a = self.trained.read(stem + A_WEIGHT, (layers, slice(None), columns)).float()
        b = self.trained.read(stem + B_WEIGHT, (layers, rows)).float()
        return (tensor.float() + self.scale * b @ a).to(self.infos[name].dtype)

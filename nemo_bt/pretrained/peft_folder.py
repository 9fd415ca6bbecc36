"""A folder of LoRA adapters as PEFT saves it: W + scale * B A over a Hugging Face folder, and tensors saved whole.

adapter_config.json names the base model; adapter_model.safetensors has A, [r, columns], and B, [rows, r], as
`base_model.model.<layer>.lora_A.weight` and `lora_B.weight`, and a trained head under its own name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.pretrained.names import HF_HEADS
from nemo_bt.pretrained.safetensors_folder import SafetensorsFolder
from nemo_bt.pretrained.source import Region, TensorInfo, TensorSource, whole

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
_A = ".lora_A.weight"
_B = ".lora_B.weight"
_PREFIX = "base_model.model."
_CHANGES_NOTHING = (
    *("peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("r", "rank_pattern", "lora_alpha", "use_rslora", "lora_dropout", "megatron_core", "qalora_group_size"),
)
"""Fields that are read here, or say what the tensors' names and shapes say too."""
_ONLY = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal")}
"""Values of others that leave W + scale * B A as it is. Source: peft/tuners/lora/config.py, LoraConfig."""
_MEND_BASE = f"Set base_model_name_or_path in {PEFT_CONFIG} to the model that they were trained on."


@dataclass(frozen=True)
class PeftConfig:
    """What adapter_config.json says."""

    base: str
    """Path or hub id of the base model."""
    revision: str | None
    """Of the base model on the hub."""
    alpha: float
    is_rank_stabilised: bool
    """The factor on B A is alpha / sqrt(r), else alpha / r."""
    is_reward_model: bool
    """The adapters were trained for a sequence classifier."""
    targets: tuple[str, ...] = ()
    """Ends of the names of layers that all have adapters; none where the names alone do not say which have."""


def of_peft(name: str) -> str:
    """Give PEFT's name of a tensor of the base model, or of an adapter on it."""
    return _PREFIX + name


def is_peft_folder(folder: Path) -> bool:
    """Tell whether a folder has adapters, and no model of its own."""
    return (folder / PEFT_CONFIG).exists() and not any(folder.glob("model*.safetensors"))


def read_peft_config(folder: Path) -> PeftConfig:
    """Read adapter_config.json; what is not computed here is refused by name."""
    file = folder / PEFT_CONFIG
    try:
        found = json.loads(file.read_text())
        config = PeftConfig(
            base=str(found["base_model_name_or_path"] or ""),
            revision=found.get("revision"),
            alpha=float(found["lora_alpha"]),
            is_rank_stabilised=bool(found.get("use_rslora")),
            is_reward_model=found.get("task_type") == "SEQ_CLS",
            targets=_targets(found),
        )
        refused = {name: value for name, value in found.items() if not _is_computed(name, value)}
        refused |= {} if found["peft_type"] == "LORA" else {"peft_type": found["peft_type"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}: expected peft_type, base_model_name_or_path and lora_alpha of PEFT's LoRA, got {error!r}."
        ) from error
    if not config.base:
        raise UserError(f"{file}: base_model_name_or_path: expected a path or a hub id, got none. {_MEND_BASE}")
    if refused:
        name, value = next(iter(refused.items()))
        raise UserError(
            f"{file}: {name}={value!r} is not computed here. Merge the adapters with PEFT (merge_and_unload), save the "
            "model with its tokenizer, and give that folder."
        )
    return config


def _targets(found: dict[str, object]) -> tuple[str, ...]:
    named = found.get("target_modules")
    chosen = found.get("layers_to_transform") is not None or found.get("exclude_modules")
    return tuple(map(str, named)) if isinstance(named, list) and not chosen else ()


def _is_computed(name: str, value: object) -> bool:
    return name in _CHANGES_NOTHING or (value in _ONLY[name] if name in _ONLY else not value)


class PeftFolder:
    """A `TensorSource` of merged weights, by the base model's names, each in the wider dtype of both.

    Args:
        folder: the adapters.
        base: tensors of the base model.

    Raises:
        UserError: a tensor of the folder belongs to nothing in the base model, or does not fit it, or one is missing.
    """

    def __init__(self, folder: Path, config: PeftConfig, base: TensorSource) -> None:
        self.base = base
        self.config = config
        self.saved = SafetensorsFolder(folder, PEFT_WEIGHTS)
        self.keys = {key.removeprefix(_PREFIX): key for key in self.saved.infos}
        self.adapted: set[str] = set()
        self.infos = dict(base.infos)
        for name, key in self.keys.items():
            target = name.removesuffix(_A).removesuffix(_B)
            if target != name:
                self.adapted.add(f"{target}.weight")
            elif name in base.infos or name in HF_HEADS:
                self.infos[name] = self.saved.infos[key]
            else:
                raise UserError(f"{folder}: {key} belongs to nothing in the base model {config.base}. {_MEND_BASE}")
        for name in sorted(self.adapted):
            self._check_fit(name, folder)
        self._check_all(folder)
        for info in self.saved.infos.values():
            self.infos = {
                name: TensorInfo(old.shape, torch.promote_types(old.dtype, info.dtype))
                for name, old in self.infos.items()
            }

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it."""
        info = self.infos[name]
        tensor = self.saved.read(self.keys[name], region) if name in self.keys else self.base.read(name, region)
        if name in self.adapted:
            rows, columns = (slice(*bounds) for bounds in whole(region, info.shape))
            a_key, b_key = self._pair(name)
            a_rC = self.saved.read(a_key, (slice(None), columns)).float()
            b_Rr = self.saved.read(b_key, (rows,)).float()
            rank = a_rC.shape[0]
            factor = self.config.alpha / (math.sqrt(rank) if self.config.is_rank_stabilised else rank)
            tensor = tensor.float() + factor * b_Rr @ a_rC
        return tensor.to(info.dtype)

    def _pair(self, name: str) -> tuple[str, str]:
        stem = name.removesuffix(".weight")
        return self.keys.get(stem + _A, ""), self.keys.get(stem + _B, "")

    def _check_fit(self, name: str, folder: Path) -> None:
        infos = (self.infos.get(name), *(self.saved.infos.get(key) for key in self._pair(name)))
        of_base, a, b = (None if info is None else info.shape for info in infos)
        if not (of_base and a and len(a) == len(of_base) == 2 and a[1:] == of_base[1:] and b == (of_base[0], a[0])):
            raise UserError(
                f"{folder}: adapters of {name}: expected (rows, columns) in the base model {self.config.base}, "
                f"(r, columns) in lora_A and (rows, r) in lora_B, found {of_base}, {a} and {b}. {_MEND_BASE}"
            )

    def _check_all(self, folder: Path) -> None:
        """Check that a base model of more layers is not taken for that of the training."""
        ends = tuple(f".{target}.weight" for target in self.config.targets)
        without = [name for name in self.base.infos if ".layers." in name and name.endswith(ends)]
        without = sorted(set(without) - self.adapted) if ends else []
        if without:
            raise UserError(
                f"{folder}: expected adapters of every {', '.join(self.config.targets)} (target_modules) in the base "
                f"model {self.config.base}, found none of {without[0]}. {_MEND_BASE}"
            )

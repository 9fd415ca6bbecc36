"""Adapters of a checkpoint as a folder that PEFT loads: A and B of each layer, and the head saved whole.

Megatron has one adapter for query, key and value, and one for gate and up: PEFT gets the same A for each of them, and
its rows of B. Source: peft/utils/save_and_load.py, get_peft_model_state_dict; peft/tuners/lora/config.py, LoraConfig.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.pretrained.adapters import A_WEIGHT, B_WEIGHT, Adapters
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.convert import Conversion, hf_head
from nemo_bt.pretrained.peft_folder import PEFT_CONFIG, PEFT_WEIGHTS, of_peft
from nemo_bt.pretrained.resolve import PretrainedSource
from nemo_bt.pretrained.source import TensorSource


def check_adapters(pretrained: PretrainedSource) -> Adapters:
    """Give the adapters of a checkpoint whose base PEFT can load.

    Raises:
        UserError: it has none, or they belong to a .nemo.
    """
    if not pretrained.adapters or not pretrained.base:
        raise UserError(f"--adapters: {pretrained.given} has no adapters. Leave it out: the whole model is exported.")
    if pretrained.base.nemo_file or pretrained.base.base:
        raise UserError(
            f"--adapters: they belong to {pretrained.adapters.base}, and PEFT needs a Hugging Face folder. Leave it "
            "out: the export has both merged."
        )
    if pretrained.architecture.attributes:
        raise UserError(
            f"--adapters: {pretrained.given} has attributes, for which PEFT's folder has no place. Leave it out: the "
            "export has them."
        )
    return pretrained.adapters


def write_adapters(folder: Path, adapters: Adapters, trained: TensorSource, architecture: Architecture) -> None:
    """Write adapter_config.json and adapter_model.safetensors.

    Args:
        folder: one that exists.
        adapters: what the checkpoint says of them.
        trained: its tensors: A, [L, dim, columns], and B, [L, rows, dim], of each adapted layer, and the head.
        architecture: that of the base model, with this head.
    """
    conversion = Conversion(architecture)
    tensors: dict[str, Tensor] = {of_peft(name): head for name, head in hf_head(trained, architecture).items()}
    modules = set()
    for key in [name for name in trained.infos if name.endswith(A_WEIGHT)]:
        stem = key.removesuffix(A_WEIGHT)
        parts = conversion.table[f"{stem}.weight"]
        for layer in range(architecture.num_layers):
            at = (slice(layer, layer + 1),)
            a_rC, b_Rr = (trained.read(stem + end, at)[0] for end in (A_WEIGHT, B_WEIGHT))
            for name, own_Rr in zip(
                conversion.names(parts, [layer]), parts.fusion.split(b_Rr, architecture.heads), strict=True
            ):
                module = name.removesuffix(".weight")
                modules.add(module.split(".")[-1])
                tensors[of_peft(f"{module}.lora_A.weight")] = a_rC.clone()
                tensors[of_peft(f"{module}.lora_B.weight")] = own_Rr.contiguous()
    save_file(tensors, folder / PEFT_WEIGHTS, metadata={"format": "pt"})
    base, _, revision = adapters.base.partition("@") if not Path(adapters.base).exists() else (adapters.base, "", "")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "revision": revision or None,
        "r": adapters.adapter_dim,
        "lora_alpha": adapters.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "modules_to_save": ["score"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n")

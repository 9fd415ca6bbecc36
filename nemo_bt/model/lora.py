"""Low-rank adapters of NeMo on a frozen model; the reward head trains in full.

Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1: W x + alpha / dim * B A x.
"""

from __future__ import annotations

import hashlib
from typing import Any

import nemo.collections.llm.fn as fn
import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from nemo.collections.llm.peft.lora import LoRA
from torch import Tensor

from nemo_bt.config.model import LoraSettings
from nemo_bt.model.layers import NormColumnParallelLinear
from nemo_bt.model.load import leaves
from nemo_bt.model.reward_gpt import RewardGPT
from nemo_bt.pretrained.adapters import A_WEIGHT, is_trained
from nemo_bt.pretrained.names import HEADS, LOG_TIE


def add_adapters(gpt: RewardGPT, settings: LoraSettings, seed: int) -> None:
    """Freeze all but the head, and put an adapter beside every linear layer of the settings.

    A is drawn from `seed`, its name and its layer alone, so that it is the same at every layout; B is zero. The model
    is this rank's part and has its weights.
    """
    for name, parameter in gpt.named_parameters():
        parameter.requires_grad_(name in (*HEADS, LOG_TIE))
    for name, module in gpt.named_modules():
        if isinstance(module, NormColumnParallelLinear):
            module.return_layernorm_output = name.split(".")[-1] in settings.target_modules
    lora = LoRA(
        target_modules=list(settings.target_modules),
        dim=settings.adapter_dim,
        alpha=settings.alpha,
        dropout=settings.adapter_dropout,
    )
    fn.walk(gpt, lora.transform)
    for name, module in gpt.named_modules():
        if name.endswith("linear_fc1.adapter") and not gpt.config.gated_linear_unit:
            module.base_linear_name = name.replace("linear_fc1", "mlp")  # its name makes NeMo store B as gate and up
    with torch.no_grad():
        sharded = gpt.sharded_state_dict()
        apply_factories(sharded)
        for tensor in leaves(sharded):
            if isinstance(tensor, ShardedTensor) and tensor.key.endswith(A_WEIGHT):
                _draw(tensor, seed)


def trained_part(sharded: dict[str, Any]) -> dict[str, Any]:
    """Give the part of a sharded state dict that training with adapters changes."""
    return {name: tensor for name, tensor in sharded.items() if is_trained(name)}


def _draw(tensor: ShardedTensor, seed: int) -> None:
    """Draw the whole matrix of a layer from Xavier's normal distribution, and copy this rank's part of it."""
    layer, *offset = tensor.global_offset
    rows, columns = tensor.global_shape[1:]
    digest = hashlib.sha256(f"{seed} {tensor.key} {layer}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    whole: Tensor = torch.randn(rows, columns, generator=generator) * (2 / (rows + columns)) ** 0.5
    part = tuple(slice(start, start + size) for start, size in zip(offset, tensor.local_shape[-2:], strict=True))
    tensor.data.copy_(whole[part].view(tensor.data.shape))

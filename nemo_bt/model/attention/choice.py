"""Which kernel computes attention on a GPU, and why it is not the one that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from nemo_bt.config.device import has_transformer_engine
from nemo_bt.model.attention.segments import AttentionRule

_LEAST_FLEX_HEAD = 16
"""Size of head from which FlexAttention computes. Source: torch/_inductor/kernel/flex/flex_attention.py."""
_LEAST_CUDNN = {9: 90600, 10: 90700}
"""First cuDNN whose attention takes sequences of different lengths with masks aligned at the bottom right, by the first
number of the compute capability. Source, as of the next: Transformer Engine, common/fused_attn/fused_attn.cpp."""
_FAULTY_CUDNN = (91000, 91001)
"""Versions whose attention Transformer Engine refuses for known faults."""
_HOPPER = 9


@dataclass(frozen=True)
class Gpu:
    """What decides which kernels a GPU has.

    Args:
        capability: compute capability, (9, 0) for H100 and H200.
        has_engine: whether Transformer Engine is there.
        cudnn: version of cuDNN, 91002 for 9.10.2; None where it is not there or nobody asks for it.
    """

    capability: tuple[int, int]
    has_engine: bool
    cudnn: int | None


@lru_cache(maxsize=8)
def this_gpu(asked: str) -> Gpu:
    """Tell of this process's GPU; of cuDNN, which has to be loaded for it, only where fused is asked for."""
    cudnn = torch.backends.cudnn.version() if asked == "fused" else None
    return Gpu(torch.cuda.get_device_capability(), has_transformer_engine(), cudnn)


def chosen_kernel(asked: str, dtype: torch.dtype, head_size: int, rule: AttentionRule, gpu: Gpu) -> tuple[str, str]:
    """Choose what computes attention: what is asked for or, where that cannot, the next of fused, flash and local.

    A soft cap is computed by `flex`, FlexAttention, or block by block (`blocked`) for local and small heads.

    Args:
        asked: model.attention_backend; auto begins with flash, which every GPU from Ampere on has.
        head_size: of queries, keys and values.

    Returns:
        Its name, and why it is not what was asked for: nothing where it is, and for auto.
    """
    if rule.softcap:
        name = "blocked" if asked == "local" or head_size < _LEAST_FLEX_HEAD else "flex"
        return name, "" if asked in ("auto", "local") else "it has no soft cap"
    why_not = {
        "fused": _no_half(dtype, head_size, 128) or _no_fused(rule, gpu),
        "flash": _no_half(dtype, head_size, 256),
        "local": "",
    }
    wanted = {"fused": ("fused", "flash", "local"), "local": ("local",)}.get(asked, ("flash", "local"))
    name = next(name for name in wanted if not why_not[name])
    return name, why_not.get(asked, "")


def _no_half(dtype: torch.dtype, head_size: int, largest: int) -> str:
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it computes in bf16, and this run in {str(dtype).removeprefix('torch.')}"
    fits = head_size % 8 == 0 and head_size <= largest
    return "" if fits else f"its heads have a multiple of 8 up to {largest} elements, these have {head_size}"


def _no_fused(rule: AttentionRule, gpu: Gpu) -> str:
    if not gpu.has_engine:
        return "Transformer Engine is not installed"
    least = _LEAST_CUDNN.get(gpu.capability[0])
    if least is None:
        return f"it needs Hopper or Blackwell, this GPU has compute capability {'.'.join(map(str, gpu.capability))}"
    if gpu.cudnn is None or gpu.cudnn < least or gpu.cudnn in _FAULTY_CUDNN:
        faulty = " and ".join(map(_written, _FAULTY_CUDNN))
        found = _written(gpu.cudnn) if gpu.cudnn else "none"
        return f"it needs cuDNN {_written(least)} or newer, and not {faulty}, whose attention is faulty; found {found}"
    return "it has no windows" if rule.window else ""


def _written(cudnn: int) -> str:
    return f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}"


def use_flash_attention_3(gpu: Gpu) -> tuple[bool, str]:
    """Have torch's FlashAttention operator call FlashAttention 3, where its package and a Hopper GPU are there.

    torch registers it for the operator that `varlen.flash_kernel` calls, in this process, from now on. It takes the
    dtypes and sizes of heads for which `chosen_kernel` gives flash, and no other GPU. Source:
    torch/nn/attention/_fa3.py.

    Returns:
        Whether it does, and what is wrong with a package that is there and cannot be used; else nothing.
    """
    from importlib.util import find_spec

    if gpu.capability[0] != _HOPPER or not find_spec("flash_attn_interface"):
        return False, ""
    try:
        from torch.nn.attention import activate_flash_attention_impl

        activate_flash_attention_impl("FA3")
    except (ImportError, OSError, RuntimeError) as error:
        return False, f"{type(error).__name__}: {error}"
    return True, ""

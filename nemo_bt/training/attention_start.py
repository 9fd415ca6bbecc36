"""Which kernels compute attention in this process, chosen and told before the model is built: for GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.pretrained.architecture import Architecture


@dataclass(frozen=True)
class AttentionStart:
    """What computes attention.

    Args:
        kernels: kind of layers -> name of the kernel; for flash which of its versions.
        warnings: why it is not what was asked for.
    """

    kernels: dict[str, str]
    warnings: list[str]

    @property
    def line(self) -> str:
        """Kernels in words, "attention: flash (FlashAttention 3)"."""
        by_kind = [name if kind == "layers" else f"{name} in {kind}" for kind, name in self.kernels.items()]
        return f"attention: {', '.join(by_kind)}"


def start_attention(asked: str, architecture: Architecture, precision: str) -> AttentionStart:
    """Choose the kernels of a model's layers, and have FlashAttention 3 compute those of flash where that is there.

    NeMo has been imported.

    Args:
        asked: model.attention_backend.
        precision: trainer.precision.
    """
    import torch

    from nemo_bt.model.attention.choice import chosen_kernel, this_gpu, use_flash_attention_3
    from nemo_bt.model.attention.segments import AttentionRule

    gpu = this_gpu(asked)
    dtype = torch.float32 if precision == "32" else torch.bfloat16
    kernels: dict[str, str] = {}
    warnings: dict[str, None] = {}
    for window in sorted(set(architecture.layer_windows)):
        rule = AttentionRule(1.0, window, architecture.softcap)
        name, reason = chosen_kernel(asked, dtype, architecture.heads.head_size, rule, gpu)
        kernels[f"layers with a window of {window} tokens" if window else "layers"] = name
        if reason:
            warnings[f"model.attention_backend={asked}: {reason}. {name} computes attention in its place."] = None
    if "flash" in kernels.values():
        is_newer, fault = use_flash_attention_3(gpu)
        written = f"flash (FlashAttention {3 if is_newer else 2})"
        kernels = {kind: written if name == "flash" else name for kind, name in kernels.items()}
        if fault:
            warnings[f"flash_attn_interface, FlashAttention 3, cannot be used: {fault}. torch's own is."] = None
    return AttentionStart(kernels, [*warnings])

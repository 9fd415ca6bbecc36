"""Model FLOPs of a step and the peak of known devices: what `train/mfu` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Dense bf16 FLOP/s by a part of the device's name, the first that fits. Source: NVIDIA's data sheets."""


@dataclass(frozen=True)
class LayerShape:
    """What the FLOPs of a model depend on.

    Args:
        num_layers: of the whole model.
        hidden_size: width.
        query_size: heads x head size.
        key_size: key heads x head size.
        ffn_size: of one expert where there are experts.
        num_ffn_matrices: 3 with a gate, else 2.
        num_active_experts: per token, 1 without experts.
    """

    num_layers: int
    hidden_size: int
    query_size: int
    key_size: int
    ffn_size: int
    num_ffn_matrices: int
    num_active_experts: int = 1


def layer_shape(config: Any) -> LayerShape:
    """Of a Megatron configuration."""
    has_experts = config.num_moe_experts is not None
    return LayerShape(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        query_size=config.num_attention_heads * config.kv_channels,
        key_size=config.num_query_groups * config.kv_channels,
        ffn_size=config.moe_ffn_hidden_size if has_experts else config.ffn_hidden_size,
        num_ffn_matrices=3 if config.gated_linear_unit else 2,
        num_active_experts=config.moe_router_topk if has_experts else 1,
    )


def training_flops(shape: LayerShape, num_tokens: int, num_attended: int, is_frozen: bool = False) -> float:
    """FLOPs of forward and backward over the real tokens of a stream; recomputation is not counted, nor is padding.

    layers * (6 tokens (2 hidden (query + key) + matrices experts hidden ffn) + 12 query attended)

    Frozen weights have no gradient of their own: 4 in the place of 6; adapters beside them are not counted. Every layer
    counts in full, also the last, of which only the scored rows are computed. One layer of width 2
    with query, key and ffn size 2 and a gate: 10 tokens that attend to 30 pairs are 10 * 168 + 30 * 24 = 2,400.
    Source: Chowdhery et al. 2022 (arXiv 2204.02311), appendix B, with causal attention.

    Args:
        shape: of the model.
        num_tokens: in the streams, each prompt once.
        num_attended: pairs of a query and a key that it sees, itself included, over the streams.
        is_frozen: only adapters are trained.
    """
    ffn = shape.num_ffn_matrices * shape.num_active_experts * shape.hidden_size * shape.ffn_size
    weights = 2 * shape.hidden_size * (shape.query_size + shape.key_size) + ffn
    return shape.num_layers * (
        (4.0 if is_frozen else 6.0) * num_tokens * weights + 12.0 * shape.query_size * num_attended
    )


def peak_flops(device_name: str, precision: str) -> float | None:
    """Dense peak of one device in the precision of the run, FLOP/s; None where it is not known.

    Args:
        device_name: as torch.cuda.get_device_name gives it.
        precision: trainer.precision.
    """
    if precision != "bf16-mixed":
        return None
    return next((peak for name, peak in PEAK_BF16_FLOPS.items() if name in device_name), None)

"""Model FLOPs of a step and the peak of known devices: what `train/mfu` is made of."""

from __future__ import annotations

from nemo_bt.pretrained.architecture import Architecture

PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Dense bf16 FLOP/s by a part of the device's name, the first that fits. Source: NVIDIA's data sheets."""


def training_flops(architecture: Architecture, num_tokens: int, num_attended: int, is_frozen: bool = False) -> float:
    """Count FLOPs of forward and backward over the real tokens of streams, without recomputation and padding.

    layers * (6 tokens (2 hidden (query + key) + matrices experts hidden ffn) + 12 query attended)

    Frozen weights have no gradient of their own, so 4 stands in the place of 6; adapters beside them are not counted.
    Every layer counts in full, also the last, which computes the scored rows alone. One layer of width 2 with query,
    key and ffn size 2 and a gate: 10 tokens that attend to 30 pairs are 10 * 168 + 30 * 24 = 2,400.
    Source: Chowdhery et al. 2022 (arXiv 2204.02311), appendix B, with causal attention.

    Args:
        num_tokens: tokens in the streams, each prompt once.
        num_attended: pairs of a query and a key that it sees, itself included, over the streams.
        is_frozen: only adapters are trained.
    """
    hidden_size = architecture.hidden_size
    ffn = architecture.num_ffn_matrices * architecture.topk * hidden_size * architecture.ffn_size
    weights = 2 * hidden_size * (architecture.query_size + architecture.key_size) + ffn
    return architecture.num_layers * (
        (4.0 if is_frozen else 6.0) * num_tokens * weights + 12.0 * architecture.query_size * num_attended
    )


def peak_flops(device_name: str, precision: str) -> float | None:
    """Give the dense peak of one device in `trainer.precision`, FLOP/s; None where it is not known."""
    if precision != "bf16-mixed":
        return None
    return next((peak for name, peak in PEAK_BF16_FLOPS.items() if name in device_name), None)

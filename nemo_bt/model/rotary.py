"""Rotary angles at the positions of a stream, with the frequencies that transformers computes for the model.

Shape suffixes: T = tokens in the stream, K = kinds of layers (1, or 2 where layers with a window have their own
frequencies), D = rotated part of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_bt.pretrained.architecture import Architecture


class RotaryAngles:
    """Angles for Megatron's `apply_rotary_pos_emb`. This is no module: a cast to bf16 must not reach frequencies."""

    def __init__(self, architecture: Architecture) -> None:
        self.frequencies_KD = torch.stack(architecture.rotary_frequencies).to(torch.cuda.current_device())

    def __call__(self, positions_1T: Tensor) -> Tensor:
        """Give the angles, [K, T, 1, 1, D] fp32, at positions [1, T] int64."""
        half_KTD = positions_1T[0].float()[None, :, None] * self.frequencies_KD[:, None, :]
        return torch.cat([half_KTD, half_KTD], dim=-1)[:, :, None, None]

"""Rotary angles at the positions of a stream, with the frequencies that transformers computes for the model.

Shape suffixes: T = tokens in the stream, K = kinds of layers (1, or 2 where layers with a window have their own
frequencies), D = rotated part of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_bt.pretrained.architecture import Architecture


class RotaryAngles:
    """What turns queries and keys. This is no module: a cast to bf16 must not reach frequencies."""

    def __init__(self, architecture: Architecture) -> None:
        self.frequencies_KD = torch.stack(architecture.rotary_frequencies).to(torch.cuda.current_device())

    def __call__(self, positions_1T: Tensor, dtype: torch.dtype) -> Tensor:
        """Give [K, T, 1, 1, D] for positions [1, T] int64.

        On a GPU these are angles in fp32, each of them twice, as Megatron's `apply_rotary_pos_emb` takes them. On a CPU
        they are the cosines and then the sines of `nemo_bt.cpu.kernels.rotate`, in `dtype`, computed once for all
        layers.
        """
        half_KTh = positions_1T[0].float()[None, :, None] * self.frequencies_KD[:, None, :]
        halves = (half_KTh, half_KTh) if half_KTh.is_cuda else (half_KTh.cos().to(dtype), half_KTh.sin().to(dtype))
        return torch.cat(halves, dim=-1)[:, :, None, None]

"""Transformer Engine's FusedAdam, some parameters at a time.

Moments that are stored in less than fp32 are copied to fp32 for the step, those of a whole parameter group at once:
8 bytes a parameter, beside the 4 that bf16 moments take. Here a group is stepped in parts, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

PART_ELEMENTS = 2**26
"""Elements of the parameters that are stepped together: their copies take 512 MiB. A larger one is stepped alone."""


def in_parts(adam: type, most: int = PART_ELEMENTS) -> type:
    """Give a subclass of an Adam, which keeps `step` in the group as FusedAdam does, that steps a group in parts."""

    class AdamInParts(adam):
        param_groups: list[dict[str, Any]]

        def step(self, closure: None = None, grad_scaler: Any = None) -> None:
            """Step each part as a group of its own, at the group's step."""
            assert closure is None, "Megatron gives none"
            options = {} if grad_scaler is None else {"grad_scaler": grad_scaler}
            groups = self.param_groups
            try:
                for group in groups:
                    steps = []
                    for params in parts(group["params"], most):
                        self.param_groups = [group | {"params": params}]
                        super().step(**options)
                        steps += [part["step"] for part in self.param_groups if "step" in part]
                    if steps:
                        group["step"] = max(steps)  # a part without a gradient may have made none
            finally:
                self.param_groups = groups

        def state_dict(self) -> dict[str, Any]:
            """Give moments as they are stored; FusedAdam's own copies all that are stored in less to fp32.

            Megatron's distributed optimizer, which alone stores them in less, reads the groups of it, and each moment
            by itself.
            """
            return torch.optim.Optimizer.state_dict(self)

    return AdamInParts


def parts(params: Iterable[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Cut parameters, in order, into lists of at most `most` elements, or of one parameter."""
    params = list(params)
    for start, stop in bounds([param.numel() for param in params], most):
        yield params[start:stop]


def bounds(sizes: Sequence[int], most: int = PART_ELEMENTS) -> list[tuple[int, int]]:
    """Give start and stop of each part: sizes 2, 3, 4, 9, 1 with at most 5 give (0, 2), (2, 3), (3, 4), (4, 5)."""
    found: list[tuple[int, int]] = []
    held = most
    for number, size in enumerate(sizes):
        if held + size > most:
            found.append((number, number))
            held = 0
        found[-1] = (found[-1][0], number + 1)
        held += size
    return found

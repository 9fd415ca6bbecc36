"""A penalty on rewards that follow the length of answers."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_bt.losses.comparisons import Comparisons


def length_covariance(given: Comparisons, scale_tokens: float) -> Tensor:
    """Compute how much the preference of each pair goes with the length of its answers, from -1 to 1.

    (2 sigmoid(d) - 1) tanh(t / s)     d = chosen - rejected; t = tokens of the chosen one minus those of the other

    Turning a pair round changes no sign of the product, so a step's mean is the covariance, over both orders of each
    pair, of the predicted preference with the squashed difference of lengths. A pair counts by itself: it is the same
    in any packing. It is bounded, and so a factor on it drives no reward away.

    Source: this project's; Singhal et al. 2023 (arXiv 2310.03716) show what it is for.

    Args:
        given: pairs, with their tokens.
        scale_tokens: s; from that difference on, a pair counts nearly in full.

    Returns:
        [P]. d = ln 3 and t = s give 0.5 tanh 1 = 0.381.
    """
    assert given.tokens_PK is not None
    longer_P = given.tokens_PK[:, 0] - given.tokens_PK[:, 1]
    return (2 * torch.sigmoid(given.chosen - given.rejected) - 1) * torch.tanh(longer_P / scale_tokens)

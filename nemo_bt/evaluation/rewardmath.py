"""RewardMATH: one right solution of a problem against nine wrong ones.

Source: Kim et al. 2024 (arXiv 2410.01729), section 3; RewardMATHEvaluation of kimsh0507/RewardMATH_official.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from nemo_bt.errors import UserError

LABEL = "solution_type"
"""Its column that says which solution is the chosen one."""


def scores(problems: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, float]:
    """Score problems by the rewards of their right and of their wrong solutions.

    Returns:
        `accuracy` (share of problems whose right solution has a higher reward than every wrong one),
        `accuracy_with_ties` (or as high as the best of them), and `mrr`: the mean of 1 over the place of the right one,
        behind those with the same reward. Rewards 2 against 3, 2, 1 have place 3.

    Raises:
        UserError: there is no problem.
    """
    if not problems:
        raise UserError(
            "RewardMATH: no problem has a solution that is chosen and one that is rejected, all with rewards. Give all "
            "rows of a problem."
        )
    return {
        "accuracy": fmean(min(right) > max(wrong) for right, wrong in problems),
        "accuracy_with_ties": fmean(min(right) >= max(wrong) for right, wrong in problems),
        "mrr": fmean(1 / (1 + sum(reward >= max(right) for reward in wrong)) for right, wrong in problems),
    }

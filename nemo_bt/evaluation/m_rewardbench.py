"""M-RewardBench: RewardBench in other languages, each with a score, and their mean.

Source: Gureja et al. 2024 (arXiv 2410.15522), section 3; counts of for-ai/m-rewardbench, analysis/plot_utils.py: some
prompts were left out, so that subsets weigh otherwise than in English.
"""

from __future__ import annotations

from collections.abc import Mapping

from nemo_bt.evaluation.rewardbench import SECTIONS

_COUNTS = {
    "alpacaeval-easy": 79,
    "alpacaeval-length": 79,
    "alpacaeval-hard": 76,
    "mt-bench-easy": 24,
    "mt-bench-med": 38,
    "mt-bench-hard": 35,
    "llmbar-natural": 76,
    "llmbar-adver-neighbor": 124,
    "llmbar-adver-GPTInst": 87,
    "llmbar-adver-GPTOut": 42,
    "llmbar-adver-manual": 43,
    "xstest-should-respond": 247,
    "donotanswer": 135,
    "math-prm": 983,
    "hep-python": 163,
}
"""Of the subsets that have fewer prompts."""
WEIGHTS: Mapping[str, Mapping[str, int]] = {
    section: {subset: _COUNTS.get(subset, count) for subset, count in subsets.items()}
    for section, subsets in SECTIONS.items()
}
"""Section -> subset -> weight."""

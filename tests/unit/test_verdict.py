"""The sentence of a report says what the numbers allow, and no more."""

from typing import Any

import pytest

from nemo_bt.evaluation.accuracy import Tally
from nemo_bt.reporting.verdict import verdict


def tally(right: int, pairs: int) -> dict[str, float]:
    return Tally(right, 0, pairs).to_json()


def numbers(
    right: int = 800, alone: int | None = 600, longer: float = 0.6, sure: float = 0.8, pairs: int = 1000
) -> dict[str, Any]:
    accuracy = right / pairs
    one = {"low": 0.5, "high": 1.0, "pairs": pairs, "confidence": sure, "accuracy": accuracy}
    return {
        "overall": tally(right, pairs),
        "longer_wins": longer,
        "shorter_wins": 1 - longer if longer else 0.0,
        "response_only": {"tally": tally(alone, pairs) if alone is not None else None, "refused": 0},
        "calibration": {"ece": abs(sure - accuracy), "bins": [one]},
    }


@pytest.mark.parametrize(
    ("of", "sentence"),
    [
        (
            numbers(),
            "80.0% of 1,000 pairs are right. It beats the rule “the longer answer wins” (60.0%), it reads the prompt "
            "(60.0% without) and it is calibrated (ECE 0.000). Next: export it (nemo-bt export) and evaluate it on a "
            "benchmark.",
        ),
        (
            numbers(right=510),
            "51.0% of 1,000 pairs are right, which may be chance. Next: more pairs or steps, or a look",
        ),
        (numbers(right=100), "10.0% of 1,000 pairs are right, fewer than by chance. Next: are chosen and rejected"),
        (numbers(longer=0.0), "It beats the rule “the longer answer wins” (0.0%)"),
        (numbers(longer=0.79), "It does not surely beat the rule “the longer answer wins” (79.0%)"),
        (numbers(longer=0.21), "It does not surely beat the rule “the shorter answer wins” (79.0%)"),
        (numbers(longer=0.21), "Next: pairs whose better answer is not the longer one, or more pairs"),
        (numbers(longer=0.9), "It loses to the rule “the longer answer wins” (90.0%)"),
        (numbers(alone=810), "it is no better for reading the prompt (81.0% without)"),
        (numbers(alone=790), "it is hardly better for reading the prompt (79.0% without)"),
        (numbers(alone=790), "Next: a look at the rows (nemo-bt data show)"),
        (numbers(alone=None), "whether it reads the prompt cannot be told and it is calibrated"),
        (numbers(sure=0.95), "it is too sure of itself (ECE 0.150). Next: model.loss.label_smoothing"),
        (numbers(sure=0.6), "it is less sure than it could be (ECE 0.200)"),
    ],
)
def test_the_sentence_follows_the_intervals(of: dict[str, Any], sentence: str) -> None:
    assert sentence in verdict(of)

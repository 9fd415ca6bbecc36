"""Numbers of a validation set -> one sentence: what the model has learnt, and what to do next."""

from __future__ import annotations

from typing import Any

_SURE = 0.05
"""Mean distance of confidence and accuracy up to which a model counts as calibrated."""


def verdict(numbers: dict[str, Any]) -> str:
    """Say whether the model beats the length of answers, reads the prompt and is calibrated, and what comes next.

    What is compared is the lower end of the accuracy's 95 % interval: what may be chance counts for nothing.

    Args:
        numbers: those of a set in report.json.
    """
    overall = numbers["overall"]
    found = f"{overall['accuracy']:.1%} of {overall['pairs']:,} pairs are right"
    if overall["high"] < 0.5:
        return f"{found}, fewer than by chance. Next: are chosen and rejected exchanged in the data?"
    if overall["low"] <= 0.5:
        return (
            f"{found}, which may be chance. Next: more pairs or steps, or a look at the pairs that it gets most wrong."
        )
    by_length, beats_length = _of_length(numbers)
    by_prompt, reads_prompt = _of_prompt(numbers)
    by_sureness, is_sure = _of_sureness(numbers)
    steps = [
        (beats_length, "pairs whose better answer is not the longer one, or more pairs (by_length in report.json)"),
        (
            reads_prompt,
            "a look at the rows (nemo-bt data show): are the prompts there, and do answers differ in more than style?",
        ),
        (is_sure, "model.loss.label_smoothing, fewer epochs or a lower rate, if probabilities matter to you"),
    ]
    advice = next(
        (text for is_good, text in steps if not is_good), "export it (nemo-bt export) and evaluate it on a benchmark"
    )
    return f"{found}. {by_length}, {by_prompt} and {by_sureness}. Next: {advice}."


def _of_length(numbers: dict[str, Any]) -> tuple[str, bool]:
    rules = [("longer", numbers["longer_wins"]), ("shorter", numbers["shorter_wins"])]
    rule, share = max(rules, key=lambda one: one[1])
    beats = numbers["overall"]["low"] > share
    loses = numbers["overall"]["high"] < share
    told = "beats" if beats else "loses to" if loses else "does not surely beat"
    return f"It {told} the rule “the {rule} answer wins” ({share:.1%})", beats


def _of_prompt(numbers: dict[str, Any]) -> tuple[str, bool]:
    alone = numbers["response_only"]["tally"]
    if not alone:
        return "whether it reads the prompt cannot be told", True
    reads = numbers["overall"]["low"] > alone["high"]
    told = "reads the prompt" if reads else "is hardly better for reading the prompt"
    if numbers["overall"]["accuracy"] <= alone["accuracy"]:
        told = "is no better for reading the prompt"
    return f"it {told} ({alone['accuracy']:.1%} without)", reads


def _of_sureness(numbers: dict[str, Any]) -> tuple[str, bool]:
    bins = numbers["calibration"]["bins"]
    ece = numbers["calibration"]["ece"]
    if ece <= _SURE:
        return f"it is calibrated (ECE {ece:.3f})", True
    surplus = sum(one["pairs"] * (one["confidence"] - one["accuracy"]) for one in bins)
    return f"it is {'too sure of itself' if surplus > 0 else 'less sure than it could be'} (ECE {ece:.3f})", False

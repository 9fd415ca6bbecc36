"""Scored samples -> feedback to train on, in the form of HALOs.

Source: Ethayarajh et al. 2024 (arXiv 2402.01306); fields of ContextualAI/HALOs, train/label.py.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.config.score import LabelRun, LabelSettings
from nemo_bt.data.formats.parse import answers_at
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.formats.values import value_at
from nemo_bt.errors import UserError
from nemo_bt.files import beside
from nemo_bt.observability.terminal import Terminal


@dataclass(frozen=True)
class Sample:
    """One response with its reward.

    Args:
        prompt: digest of what tells prompts apart: prompt_id, where there is one, and the prompt.
        reward: reward of the response.
        offset: bytes of the file of scored rows before its row.
        position: index of the response in the row's list; None where the row has no list.
    """

    prompt: str
    reward: float
    offset: int
    position: int | None


def check_label(settings: LabelSettings) -> None:
    """Check the settings of a run before it starts.

    Raises:
        UserError: a value cannot be used; the first one is named.
    """
    if settings.threshold not in ("mean", "median") and not isinstance(settings.threshold, int | float):
        raise UserError(f"label.threshold: expected mean, median or a number, got {settings.threshold}.")
    if not settings.output.endswith(".jsonl"):
        raise UserError(f"label.output: expected a name that ends in .jsonl, got {settings.output}.")
    if Path(settings.output).exists():
        raise UserError(f"label.output: {settings.output} is there already. Choose another name, or remove it.")


def label(run: LabelRun, terminal: Terminal) -> None:
    """Write the feedback of a run whose score.output exists; only rewards and places of the samples are in memory.

    Raises:
        UserError: the samples give no feedback.
    """
    settings = run.label
    scored = Path(run.score.output)
    output = Path(settings.output)
    keys = run.source
    count = 0
    with scored.open("rb") as rows, beside(output) as unfinished, unfinished.open("w") as written:
        samples = list(_samples(rows, keys, run.score.column))

        def response(sample: Sample) -> tuple[dict[str, Any], Any]:
            rows.seek(sample.offset)
            row = json.loads(rows.readline())
            shape = FORMATS["response" if sample.position is None else "completions"]
            return row, answers_at(row, shape, keys)[sample.position or 0]

        for item in _feedback(samples, settings, response, keys):
            written.write(json.dumps(item) + "\n")
            count += 1
        if not count:
            raise UserError(f"{scored}: no {settings.feedback} feedback comes out of {len(samples):,} samples.")
    terminal.line(f"{output}: {count:,} rows of {settings.feedback} feedback from {len(samples):,} samples")


def _samples(rows: Iterable[bytes], keys: RowSettings, column: str) -> Iterator[Sample]:
    """Give the responses that have a reward."""
    offset = 0
    for line in rows:
        row = json.loads(line)
        is_list = isinstance(row[column], list)
        for position, reward in enumerate(row[column] if is_list else [row[column]]):
            if reward is not None:
                asked = json.dumps([row.get("prompt_id"), prompt_of(row, keys)], sort_keys=True)
                prompt = hashlib.sha256(asked.encode()).hexdigest()[:32]
                yield Sample(prompt, reward, offset, position if is_list else None)
        offset += len(line)


def prompt_of(row: dict[str, Any], keys: RowSettings) -> Any:
    """Give a row's prompt as it was rendered: with the system message of its own column, where there is one."""
    prompt = value_at(row, keys.prompt_key)
    system = keys.system_key and row.get(keys.system_key)
    if system and isinstance(prompt, str):
        return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
    return prompt


def _feedback(
    samples: Sequence[Sample], settings: LabelSettings, response: Any, keys: RowSettings
) -> Iterator[dict[str, Any]]:
    if settings.feedback == "pairwise":
        draw = random.Random(settings.seed)
        for a, b in chosen_pairs(samples, settings.pairs, settings.min_margin, draw):
            if draw.random() < 0.5:
                a, b = b, a
            row, output_a = response(a)
            _, output_b = response(b)
            yield _named(row, keys) | {
                "output_A": output_a,
                "output_B": output_b,
                "label": int(a.reward > b.reward),
                "reward_A": a.reward,
                "reward_B": b.reward,
                "reward_difference": abs(a.reward - b.reward),
                "type": "pairwise_feedback",
            }
        return
    limit = threshold_of([sample.reward for sample in samples], settings.threshold)
    for sample in samples:
        row, output = response(sample)
        item = _named(row, keys) | {"output": output, "reward": sample.reward}
        if settings.feedback == "binary":
            item["label"] = int(sample.reward >= limit)
        yield item | {"type": f"{settings.feedback}_feedback"}


def _named(row: dict[str, Any], keys: RowSettings) -> dict[str, Any]:
    return ({"prompt_id": row["prompt_id"]} if "prompt_id" in row else {}) | {"prompt": prompt_of(row, keys)}


def threshold_of(rewards: Sequence[float], wanted: str | float) -> float:
    """Give the mean, the median, or the number itself; infinity where there are no rewards."""
    if not rewards:
        return float("inf")
    if wanted == "mean":
        return fmean(rewards)
    return median(rewards) if wanted == "median" else float(wanted)


def chosen_pairs(
    samples: Sequence[Sample], mode: str, min_margin: float, draw: random.Random
) -> Iterator[tuple[Sample, Sample]]:
    """Give pairs of samples with the same prompt, whose rewards differ by `min_margin` or more.

    `mode` is random, max or min; `draw` is used by random alone.
    """
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, []).append(sample)
    for group in by_prompt.values():
        if mode == "random":
            draw.shuffle(group)
            candidates = list(zip(group[0::2], group[1::2], strict=False))
        else:
            ordered = sorted(group, key=lambda sample: sample.reward)
            candidates = _nearest(ordered, min_margin) if mode == "min" else [(ordered[0], ordered[-1])]
        enough = [(a, b) for a, b in candidates if a.reward != b.reward and _gap(a, b) >= min_margin]
        yield from enough if mode != "min" else sorted(enough, key=lambda pair: _gap(*pair))[:1]


def _nearest(ordered: Sequence[Sample], min_margin: float) -> list[tuple[Sample, Sample]]:
    """Pair each sample with the next one that is far enough above it; a group's nearest pair is among these."""
    pairs = []
    above = 0
    for low, sample in enumerate(ordered):
        above = max(above, low + 1)
        while above < len(ordered) and (
            ordered[above].reward == sample.reward or _gap(sample, ordered[above]) < min_margin
        ):
            above += 1
        if above < len(ordered):
            pairs.append((sample, ordered[above]))
    return pairs


def _gap(a: Sample, b: Sample) -> float:
    return abs(a.reward - b.reward)

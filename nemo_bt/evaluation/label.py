"""Scored samples -> feedback to train on, in the form of HALOs.

Source: Ethayarajh et al. 2024 (arXiv 2402.01306); fields of ContextualAI/HALOs, train/label.py.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.config.score import LabelRun, LabelSettings
from nemo_bt.data.formats.format import Format
from nemo_bt.data.formats.parse import answers_at
from nemo_bt.data.formats.prompts import prompt_at
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError
from nemo_bt.files import beside
from nemo_bt.observability.terminal import Terminal
from nemo_bt.scoring.rows import reader_of

_FIRST_ROWS = 512


@dataclass(frozen=True)
class Sample:
    """One response with its reward.

    Args:
        prompt: digest of what tells prompts apart: prompt_id, where there is one, the prompt and its tools.
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
        first: list[Any] = [json.loads(line) for line in islice(rows, _FIRST_ROWS)]
        form = FORMATS[reader_of(str(scored), first, keys, True, run.score.column).form]
        rows.seek(0)
        samples = list(_samples(rows, form, keys, run.score.column))

        def response(sample: Sample) -> tuple[dict[str, Any], Any]:
            rows.seek(sample.offset)
            row = json.loads(rows.readline())
            return _asked(row, form, keys), answers_at(row, form, keys)[sample.position or 0]

        for item in _feedback(samples, settings, response):
            written.write(json.dumps(item) + "\n")
            count += 1
        if not count:
            raise UserError(f"{scored}: no {settings.feedback} feedback comes out of {len(samples):,} samples.")
    terminal.line(f"{output}: {count:,} rows of {settings.feedback} feedback from {len(samples):,} samples")


def _samples(rows: Iterable[bytes], form: Format, keys: RowSettings, column: str) -> Iterator[Sample]:
    """Give the responses that have a reward."""
    offset = 0
    for line in rows:
        row = json.loads(line)
        is_list = isinstance(row[column], list)
        rewards = row[column] if is_list else [row[column]]
        if any(reward is not None for reward in rewards):
            asked = json.dumps(_asked(row, form, keys), sort_keys=True)
            prompt = hashlib.sha256(asked.encode()).hexdigest()[:32]
            for position, reward in enumerate(rewards):
                if reward is not None:
                    yield Sample(prompt, reward, offset, position if is_list else None)
        offset += len(line)


def _asked(row: dict[str, Any], form: Format, keys: RowSettings) -> dict[str, Any]:
    """Give a row's prompt as it was rendered, with its system message and tools, and prompt_id where it has one."""
    try:
        found = prompt_at(row, form, keys)
    except RowError as error:
        raise UserError(
            f"label.input: a scored row has {error.detail}, which the first rows have. Label files of other columns "
            "apart."
        ) from error
    prompt: Any = found.said
    if found.system:
        said = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] if prompt else []
        has_its_own = bool(said) and said[0]["role"] == "system"
        prompt = said if has_its_own else [{"role": "system", "content": found.system}, *said]
    told = {"prompt_id": row["prompt_id"]} if "prompt_id" in row else {}
    return told | {"prompt": prompt} | ({"tools": found.tools} if found.tools else {})


def _feedback(samples: Sequence[Sample], settings: LabelSettings, response: Any) -> Iterator[dict[str, Any]]:
    if settings.feedback == "pairwise":
        draw = random.Random(settings.seed)
        for a, b in chosen_pairs(samples, settings.pairs, settings.min_margin, draw):
            if draw.random() < 0.5:
                a, b = b, a
            asked, output_a = response(a)
            _, output_b = response(b)
            yield asked | {
                "output_A": output_a,
                "output_B": output_b,
                "label": int(a.reward > b.reward),
                "reward_A": a.reward,
                "reward_B": b.reward,
                "reward_difference": abs(a.reward - b.reward),
                "type": "pairwise_feedback",
            }
        return
    if settings.feedback == "ranked":
        for group in by_prompt(samples):
            ordered = sorted(group, key=lambda sample: -sample.reward)
            answers = [response(sample) for sample in ordered]
            if len(ordered) > 1:
                outputs = [output for _, output in answers]
                scores = [sample.reward for sample in ordered]
                yield answers[0][0] | {"completions": outputs, "scores": scores, "type": "ranked_feedback"}
        return
    limit = threshold_of([sample.reward for sample in samples], settings.threshold)
    for sample in samples:
        asked, output = response(sample)
        item = asked | {"output": output, "reward": sample.reward}
        if settings.feedback == "binary":
            item["label"] = int(sample.reward >= limit)
        yield item | {"type": f"{settings.feedback}_feedback"}


def threshold_of(rewards: Sequence[float], wanted: str | float) -> float:
    """Give the mean, the median, or the number itself; infinity where there are no rewards."""
    if not rewards:
        return float("inf")
    if wanted == "mean":
        return fmean(rewards)
    return median(rewards) if wanted == "median" else float(wanted)


def by_prompt(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Put the samples of each prompt together, in the order of the prompts' first ones."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt, []).append(sample)
    return list(groups.values())


def chosen_pairs(
    samples: Sequence[Sample], mode: str, min_margin: float, draw: random.Random
) -> Iterator[tuple[Sample, Sample]]:
    """Give pairs of samples with the same prompt, whose rewards differ by `min_margin` or more.

    `mode` is random, max or min; `draw` is used by random alone.
    """
    for group in by_prompt(samples):
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

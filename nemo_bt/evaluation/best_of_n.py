"""Best of n: how good the answer is that the model picks among n answers to a prompt whose quality is known.

Source: Chen et al. 2021 (arXiv 2107.03374), section 2.1: the mean over all ways to draw n of a prompt's answers, here
for the one with the highest reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import NormalDist, fmean, stdev
from typing import Any

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.responses import prompt_of
from nemo_bt.data.formats.rewardmath import SCORES
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.formats.values import has_value, list_at, value_at
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError
from nemo_bt.evaluation import rewardmath
from nemo_bt.evaluation.accuracy import tally
from nemo_bt.scoring.rows import RowReader

LABEL_KEYS = ("correct", "is_correct", "label", "labels", "scores", "score", rewardmath.LABEL)
"""Columns, or fields of completions, in which labels are looked for."""
SIZES = (1, 2, 4, 8, 16, 32)
_PAIRS = "sampled_conflict_pairs"
"""PPE's column with the pairs that its accuracy counts, by position."""


@dataclass
class Labelled:
    """Answers to one prompt.

    Args:
        rewards: what the model says.
        labels: what is known, higher is better: 1 and 0 for right and wrong.
        pairs: positions of the answers to compare; None is all.
        is_whole: whether every answer to the prompt has a reward.
    """

    rewards: list[float] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    pairs: list[tuple[int, int]] | None = None
    is_whole: bool = True

    @property
    def sides(self) -> tuple[list[float], list[float]]:
        """Rewards of the answers that are right, and of those that are wrong."""
        by_label = list(zip(self.rewards, self.labels, strict=True))
        return [reward for reward, label in by_label if label > 0], [reward for reward, label in by_label if label <= 0]


def label_key_of(rows: Sequence[dict[str, Any]], reader: RowReader, keys: RowSettings, given: str | None) -> str:
    """Find the column of labels.

    Args:
        rows: some rows.
        keys: names of the columns that are read.
        given: its name, where the user has said it.

    Raises:
        UserError: there is none.
    """
    for key in [given] if given else LABEL_KEYS:
        if any(key in row or any(key in one for one in _entries(row, reader, keys)) for row in rows):
            return key
    has = sorted({name for row in rows for name in row} - set(reader.columns))
    expected = given or ", ".join(LABEL_KEYS)
    raise UserError(
        "nemo-bt evaluate: rows of single answers need to say how good each is: expected a column or a field of "
        f"completions called {expected}, found {', '.join(has)}. Set evaluate.label_key, or give pairs."
    )


def _entries(row: dict[str, Any], reader: RowReader, keys: RowSettings) -> list[dict[str, Any]]:
    """Give the completions of a row that are objects."""
    name = keys.named(FORMATS[reader.form].answers)
    found = value_at(row, name) if name and has_value(row, name) else []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def labelled(
    rows: Iterable[dict[str, Any]], reader: RowReader, keys: RowSettings, label_key: str
) -> tuple[list[Labelled], int]:
    """Put the answers to each prompt together, and count the rows that have no reward; rows may have none yet.

    Raises:
        UserError: a row has another number of labels than of answers, or a label is no number.
    """
    found: dict[str, Labelled] = {}
    without = 0
    for number, row in enumerate(rows):
        try:
            (sides,) = reader.sides(row)
        except RowError:
            without += 1
            continue
        rewards = row.get(reader.columns[0], [0.0] * len(sides) if reader.is_list else 0.0)
        rewards = rewards if isinstance(rewards, list) else [rewards]
        group = found.setdefault(str(number) if reader.is_list else repr(prompt_of(sides[0])), Labelled())
        if None in rewards or not rewards:
            without += 1
            group.is_whole = False
            continue
        group.rewards += rewards
        group.labels += _labels(row, reader, keys, label_key, len(sides))
        group.pairs = [(int(i), int(j)) for i, j in row[_PAIRS]] if row.get(_PAIRS) else None
    return [group for group in found.values() if group.rewards], without


def _labels(row: dict[str, Any], reader: RowReader, keys: RowSettings, key: str, num_answers: int) -> list[float]:
    try:
        if not reader.is_list:
            values = [value_at(row, key)]
            values = [SCORES.get(value, value) if isinstance(value, str) else value for value in values]
        elif has_value(row, key):
            values = list_at(row, key)
        else:
            values = [value_at(one, key) for one in _entries(row, reader, keys)]
        if len(values) != num_answers or not all(isinstance(value, int | float) for value in values):
            found = f"'{key}' has {len(values)} labels for {num_answers} answers, or some are no numbers"
            raise RowError("type", found)
        return [float(value) for value in values]
    except RowError as error:
        raise UserError(f"evaluate.label_key={key}: a row is not usable: {error.detail}.") from error


def expected_label(keys: Sequence[float], labels: Sequence[float], n: int) -> float:
    """Give the mean label of the answer with the highest key among n, over all ways to draw n of them.

    Answers with equal keys are taken with equal chance. Of keys 1, 2, 3 with labels 1, 0, 1 two are drawn in three
    ways, of which one has the label 0 on top: 2/3.
    """
    by_key: dict[float, list[float]] = {}
    for key, label in zip(keys, labels, strict=True):
        by_key.setdefault(key, []).append(label)
    mean = 0.0
    below = 0
    for key in sorted(by_key):
        upto = below + len(by_key[key])
        mean += fmean(by_key[key]) * (math.comb(upto, n) - math.comb(below, n)) / math.comb(len(keys), n)
        below = upto
    return mean


def best_of_n(groups: Sequence[Labelled], label_key: str) -> dict[str, Any]:
    """Compute the curve, and the accuracy of pairs of answers to one prompt whose labels differ.

    Returns:
        `curve` has for each n the `mean` label over the `prompts` with n answers or more, its 95 % interval (None for a
        single prompt), and what the `best` and a `random` choice would give. `score` is the mean at the largest n that
        half of the prompts have.
    """
    curve = {}
    for n in SIZES:
        enough = [group for group in groups if len(group.rewards) >= n]
        if 2 * len(enough) < len(groups):
            break
        means = [expected_label(group.rewards, group.labels, n) for group in enough]
        half = NormalDist().inv_cdf(0.975) * stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
        curve[str(n)] = {
            "mean": fmean(means),
            "low": None if half is None else fmean(means) - half,
            "high": None if half is None else fmean(means) + half,
            "best": fmean(expected_label(group.labels, group.labels, n) for group in enough),
            "random": fmean(fmean(group.labels) for group in enough),
            "prompts": len(enough),
        }
    pairs = tally(pair for group in groups for pair in _differing(group))
    found = {"score": curve[max(curve, key=int)]["mean"], "labels": label_key, "prompts": len(groups), "curve": curve}
    return found | ({"overall": pairs.to_json()} if pairs.total else {})


def _differing(group: Labelled) -> Iterable[tuple[float, float]]:
    """Give the rewards of better and worse of each pair whose labels differ."""
    for i, j in group.pairs if group.pairs is not None else combinations(range(len(group.labels)), 2):
        if group.labels[i] != group.labels[j]:
            better, worse = (i, j) if group.labels[i] > group.labels[j] else (j, i)
            yield group.rewards[better], group.rewards[worse]

"""Scored rows -> results: plain data, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from nemo_bt.data.formats.responses import response_of
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError
from nemo_bt.evaluation import judgebench, m_rewardbench, rewardbench, rewardbench2, rm_bench, rmb
from nemo_bt.evaluation.accuracy import Scored, Tally, by_key, tally
from nemo_bt.evaluation.kind import subset_column
from nemo_bt.scoring.rows import RowReader

_NAMES = ("id", "subset", "domain", "source", "language", "num_correct", "category_path")
_RATIOS = (0.5, 0.8, 1.25, 2.0)


def scored_rows(rows: Iterable[dict[str, Any]], reader: RowReader) -> tuple[list[Scored], int]:
    """Read the rows of pairs that have rewards, and count those that have none."""
    found = []
    without = 0
    for row in rows:
        chosen, rejected = (_listed(row[name]) for name in reader.columns)
        if not chosen or not rejected or None in (*chosen, *rejected):
            without += 1
            continue
        names = {name: str(row[name]) for name in _NAMES if row.get(name) is not None}
        found.append(Scored(chosen, rejected, names, _lengths(row, reader)))
    return found, without


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _lengths(row: dict[str, Any], reader: RowReader) -> tuple[list[int], list[int]]:
    try:
        better, worse = ([len(response_of(side)) for side in sides] for sides in reader.sides(row))
    except RowError:
        return [], []
    return better, worse


def unscored_rows(rows: Iterable[Any], reader: RowReader) -> list[Scored]:
    """Read rows that have no rewards yet, to look at their shape; those that are bad are left out."""
    found = []
    for row in rows:
        try:
            sides = reader.sides(row)
        except RowError:
            continue
        chosen, rejected = ([0.0] * len(of_side) for of_side in sides)
        told = row | reader.facts
        found.append(Scored(chosen, rejected, {name: str(told[name]) for name in _NAMES if told.get(name) is not None}))
    return found


def measure(rows: Sequence[Scored], kind: str) -> dict[str, Any]:
    """Compute the results of rows.

    Args:
        rows: at least one row.
        kind: a value of evaluate.kind other than auto.

    Returns:
        `kind`, `score` (what the benchmark calls its score, or the accuracy of pairs), and tallies or numbers by
        subset, section, domain, source and length, where the rows have them.

    Raises:
        UserError: the rows are not of that kind.
    """
    measures = {"pairs": _pairs, "rewardbench": _rewardbench, "rewardbench2": _rewardbench2, "rm_bench": _rm_bench}
    measures |= {"judgebench": _judgebench, "rmb": _rmb}
    return {"kind": kind} | measures[kind](rows)


def _pairs(rows: Sequence[Scored]) -> dict[str, Any]:
    overall = _of_all(rows)
    found: dict[str, Any] = {"score": overall["overall"]["accuracy"]} | overall
    for name in ("subset", "source", "language"):
        if any(name in row.names for row in rows):
            found[f"by_{name}"] = _plain(_by_name(rows, name))
    return found


def _by_name(rows: Sequence[Scored], name: str) -> dict[str, Tally]:
    pairs = [(pair, row.names.get(name, "none")) for row in rows for pair in row.pairs]
    return by_key([pair for pair, _ in pairs], [key for _, key in pairs])


def _of_all(rows: Sequence[Scored]) -> dict[str, Any]:
    pairs = [pair for row in rows for pair in row.pairs]
    ratios = [ratio for row in rows for ratio in row.length_ratios]
    by_length = by_key(pairs, [length_bucket(ratio) for ratio in ratios])
    longer = fmean(ratio > 1 for ratio in ratios)
    return {"overall": tally(pairs).to_json(), "longer_wins": longer, "by_length": _plain(by_length)}


def length_bucket(ratio: float) -> str:
    """Name the range of a ratio of lengths, chosen over rejected: 0 to 0.5, 0.5 to 0.8, ..."""
    limits = [0.0, *_RATIOS]
    at = sum(ratio >= limit for limit in _RATIOS)
    return f"{limits[at]:g} to {_RATIOS[at]:g}" if at < len(_RATIOS) else f"{_RATIOS[-1]:g} and more"


def _plain(tallies: dict[str, Tally]) -> dict[str, Any]:
    return {name: one.to_json() for name, one in tallies.items()}


def _rewardbench(rows: Sequence[Scored]) -> dict[str, Any]:
    _check_answers(rows, "rewardbench", lambda row: (len(row.chosen), len(row.rejected)) == (1, 1), "one of each")
    column = subset_column(rows)
    subsets = _by_name(rows, column)
    unknown = sorted(set(subsets) - rewardbench.SUBSETS)
    if unknown:
        raise UserError(
            f"evaluate.kind=rewardbench: expected subsets of it in the column subset, got {', '.join(unknown[:5])}."
        )
    if all("language" in row.names for row in rows):
        return _languages(rows, column) | {"by_subset": _plain(subsets)} | _of_all(rows)
    sections = rewardbench.section_scores(subsets)
    return {
        "score": rewardbench.total_score(sections),
        "sections": sections,
        "missing_subsets": sorted(rewardbench.SUBSETS - subsets.keys()),
        "by_subset": _plain(subsets),
    } | _of_all(rows)


def _check_answers(rows: Sequence[Scored], kind: str, fits: Callable[[Scored], bool], expected: str) -> None:
    wrong = next((row for row in rows if not fits(row)), None)
    if wrong is not None:
        found = f"{len(wrong.chosen)} right and {len(wrong.rejected)} wrong"
        raise UserError(f"evaluate.kind={kind}: expected answers of every row, {expected}, got {found}.")


def _languages(rows: Sequence[Scored], column: str) -> dict[str, Any]:
    """Give each language's score and their mean; the sections are the languages' means."""
    scores = {}
    sections: dict[str, list[float]] = {}
    missing = []
    for language in sorted({row.names["language"] for row in rows}):
        subsets = _by_name([row for row in rows if row.names["language"] == language], column)
        missing += [f"{language} {subset}" for subset in sorted(rewardbench.SUBSETS - subsets.keys())]
        own = rewardbench.section_scores(subsets, m_rewardbench.WEIGHTS)
        scores[language] = rewardbench.total_score(own)
        for section, score in own.items():
            sections.setdefault(section, []).append(score)
    found = {"score": fmean(scores.values()), "languages": scores, "missing_subsets": missing}
    return found | {"sections": {section: fmean(of) for section, of in sections.items()}}


def _judgebench(rows: Sequence[Scored]) -> dict[str, Any]:
    unknown = sorted({row.names.get("source", "none") for row in rows})
    unknown = [name for name in unknown if not name.startswith(judgebench.CATEGORIES)]
    if unknown:
        raise UserError(
            f"evaluate.kind=judgebench: expected a source that begins with {', '.join(judgebench.CATEGORIES)}, got "
            f"{', '.join(unknown[:5])}."
        )
    found = judgebench.scores(rows)
    averages = {name: found.pop(name) for name in ("micro", "macro")}
    return {"score": averages["micro"], "averages": averages, "sections": found} | _of_all(rows)


def _rmb(rows: Sequence[Scored]) -> dict[str, Any]:
    unknown = sorted({row.names.get("category_path", "none") for row in rows})
    unknown = [name for name in unknown if not rmb.is_path(name)]
    if unknown:
        raise UserError(
            f"evaluate.kind=rmb: expected a category_path that begins with {' or '.join(rmb.SETS)}, got "
            f"{', '.join(unknown[:5])}."
        )
    sections = rmb.scores(rows)
    return {"score": fmean(sections.values()), "sections": sections}


def _rewardbench2(rows: Sequence[Scored]) -> dict[str, Any]:
    _check_answers(
        rows,
        "rewardbench2",
        lambda row: len(row.chosen) + len(row.rejected) > 2 or "subset" in row.names,
        "a list of right and one of wrong",
    )
    subsets: dict[str, list[Scored]] = {}
    for row in rows:
        subsets.setdefault(row.names.get("subset", "none"), []).append(row)
    scores = {}
    for name, of_subset in sorted(subsets.items()):
        if name.lower() == rewardbench2.TIES:
            scores[name] = rewardbench2.ties_score(_ties_by_id(of_subset))
        else:
            scores[name] = fmean(rewardbench2.best_of(row) for row in of_subset)
    missing = sorted(set(rewardbench2.SUBSETS) - set(scores))
    counts = {name: len(of_subset) for name, of_subset in sorted(subsets.items())}
    return {"score": fmean(scores.values()), "sections": scores, "missing_subsets": missing, "prompts": counts}


def _ties_by_id(rows: Sequence[Scored]) -> dict[str, Scored]:
    found = {row.names.get("id", ""): row for row in rows}
    wrong = next((name for name in found if not name.startswith(("ref:", "tied:"))), None)
    if wrong is not None or len(found) < len(rows):
        raise UserError(f"RewardBench 2, ties: expected an id ref:<n> or tied:<n> of each row's own, got '{wrong}'.")
    return found


def _rm_bench(rows: Sequence[Scored]) -> dict[str, Any]:
    for row in rows:
        if not len(row.chosen) == len(row.rejected) == rm_bench.STYLES:
            raise UserError(f"evaluate.kind=rm_bench: row {row.names.get('id')} has not three answers of each kind.")
    domains = {row.names.get("domain") for row in rows}
    unknown = [str(domain) for domain in domains if not str(domain).startswith(rm_bench.DOMAINS)]
    if unknown and domains != {None}:
        raise UserError(
            f"rows have three right and three wrong answers, as RM-Bench alone has; its domains are "
            f"{', '.join(rm_bench.DOMAINS)}, got {', '.join(unknown)}. Set evaluate.kind=pairs for every "
            "right answer with every wrong one."
        )
    scores = rm_bench.scores(rows)
    return {"score": scores["average"]["average"], "domains": scores}

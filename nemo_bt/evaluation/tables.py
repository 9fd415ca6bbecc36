"""Results -> tables for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Table: TypeAlias = tuple[Sequence[str], list[list[str]]]
"""Names of the columns, and the rows."""
_BY = {
    "by_subset": "subset",
    "by_source": "source",
    "by_language": "language",
    "by_length": "chosen over rejected characters",
}


def tables_of(results: dict[str, Any]) -> list[Table]:
    """Make the tables of the results: accuracies with their 95 % interval, ties counted apart."""
    found: list[Table] = []
    for key, title in _BY.items():
        if key in results:
            rows = [_tally_row(name, one) for name, one in (*results[key].items(), ("all", results["overall"]))]
            found.append(((title, "pairs", "accuracy", "95 % interval", "ties"), rows))
    if "sections" in results:
        rows = [[name, f"{score:.4f}"] for name, score in (*results["sections"].items(), ("score", results["score"]))]
        found.append((("section", "score"), rows))
    if "curve" in results:
        rows = [
            [n, f"{of['prompts']:,}", f"{of['mean']:.4f}", _interval(of), f"{of['best']:.4f}", f"{of['random']:.4f}"]
            for n, of in results["curve"].items()
        ]
        found.append((("best of n", "prompts", "label", "95 % interval", "best possible", "at random"), rows))
        if "overall" in results:
            rows = [_tally_row("better over worse answers", results["overall"])]
            found.append((("pairs", "pairs", "accuracy", "95 % interval", "ties"), rows))
    for name in ("languages", "averages"):
        if name in results:
            rows = [[one, f"{score:.4f}"] for one, score in results[name].items()]
            found.append(((name.removesuffix("s"), "score"), rows))
    if "attributes" in results:
        rows = [
            [*_tally_row(name, of)[:4], "unknown" if of["fitted_weight"] is None else f"{of['fitted_weight']:+.4f}"]
            for name, of in results["attributes"].items()
        ]
        found.append((("attribute", "pairs", "accuracy", "95 % interval", "weight fitted on these pairs"), rows))
    if "domains" in results:
        levels = ("easy", "normal", "hard", "average")
        rows = [[name, *(f"{of[level]:.4f}" for level in levels)] for name, of in results["domains"].items()]
        found.append((("domain", *levels), rows))
    row = leaderboard_row(results)
    if row:
        title = "in percent, incomplete" if results.get("missing_subsets") else "in percent, as leaderboards have it"
        found.append(((title, *row), [[results["model"], *row.values()]]))
    return found


def leaderboard_row(results: dict[str, Any]) -> dict[str, str]:
    """Give a benchmark's columns in percent, as its leaderboard prints them; pairs have none."""
    if "sections" in results:
        found = {"score": results["score"], **results["sections"]}
    elif "domains" in results:
        average = results["domains"]["average"]
        found = {name: of["average"] for name, of in results["domains"].items() if name != "average"}
        found |= {level: average[level] for level in ("easy", "normal", "hard")} | {"average": average["average"]}
    else:
        return {}
    return {name: f"{100 * score:.1f}" for name, score in found.items()}


def _tally_row(name: str, tally: dict[str, float]) -> list[str]:
    return [name, f"{tally['pairs']:,}", f"{tally['accuracy']:.4f}", _interval(tally), f"{tally['ties']:,}"]


def _interval(of: Mapping[str, float | None]) -> str:
    return "unknown" if of["low"] is None else f"{of['low']:.4f} to {of['high']:.4f}"


def as_markdown(title: str, facts: Sequence[str], tables: Sequence[Table]) -> str:
    """Write a page with a heading, a list of facts and the tables."""
    lines = [f"# {title}", "", *(f"- {fact}" for fact in facts)]
    for columns, rows in tables:
        lines += ["", _line(columns), _line(["---", *["---:"] * (len(columns) - 1)]), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

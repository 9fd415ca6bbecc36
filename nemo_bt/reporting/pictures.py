"""Curves and numbers -> pictures, with matplotlib. Each has one panel, so that it can be read on a phone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nemo_bt.batching.packing import Floats
from nemo_bt.batching.shuffle import Ints
from nemo_bt.reporting.curves import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 5.2
_HEIGHT = 3.8
"""Size in inches. On a phone that shows 5 inches over 9 cm, 10 points are still 7."""
_CHOSEN = "#1f6fb4"
_REJECTED = "#d95f02"
_NEUTRAL = "#555555"
_LONGEST_LABEL = 24
_HALF_A_LINE = 22
"""Lengths in characters."""
_LONGEST_STEM = 80
_LEGEND_ROW = 0.22
"""Height of a row in inches."""
_MOST_POINTS = 4000


def pictures_of_run(panels: Sequence[Panel]) -> dict[str, Figure]:
    """Draw the curves of a run, by the name of their file."""
    return {f"curves-{panel.name}": draw_curves(panel) for panel in panels}


def file_stems(names: Sequence[str]) -> list[str]:
    """Give each set a start of its files' names, no two the same: `a/b` and `a b` get a_b and a_b-2."""
    stems: list[str] = []
    for name in names:
        start = re.sub(r"[^\w.-]+", "_", name)[:_LONGEST_STEM]
        numbered = (start if number == 1 else f"{start}-{number}" for number in itertools.count(1))
        stems.append(next(stem for stem in numbered if stem not in stems))
    return stems


def pictures_of_set(numbers: Mapping[str, Any], reward_E2: Floats, characters_E2: Ints) -> dict[str, Figure]:
    """Draw the pictures of a validation set, by what they show.

    Args:
        numbers: what `nemo_bt.reporting.numbers.numbers_of` gives.
        reward_E2: rewards of its entries.
        characters_E2: lengths of their responses.
    """
    figures = {
        "margins": draw_margins(numbers),
        "calibration": draw_calibration(numbers["calibration"]),
        "length": draw_lengths(numbers["length"], reward_E2, characters_E2),
        "by-length": draw_tallies(
            "Accuracy by the gap of lengths", "characters, chosen over rejected", numbers["by_length"], numbers
        ),
    }
    if len(numbers["by_source"]) > 1:
        figures["by-source"] = draw_tallies("Accuracy by source", "source", numbers["by_source"], numbers)
    return figures


def draw_curves(panel: Panel) -> Figure:
    """Draw lines over steps; the points are marked where there are few."""
    figure, axes = _blank(panel.title, "optimizer steps", panel.unit)
    for series in panel.series:
        marker = "o" if len(series.steps) < 30 else None
        axes.plot(series.steps, series.values, label=_short(series.label), linewidth=1.6, marker=marker, markersize=6)
    axes.locator_params(axis="x", integer=True)
    _legend(figure, axes)
    return figure


def draw_margins(numbers: Mapping[str, Any]) -> Figure:
    """Draw a histogram of the margins, wrong ones in another colour."""
    figure, axes = _blank("Margins", "reward of chosen minus reward of rejected", "pairs")
    edges = numbers["margins"]["edges"]
    counts = numbers["margins"]["counts"]
    widths = [high - low for low, high in itertools.pairwise(edges)]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    colours = [_CHOSEN if middle > 0 else _REJECTED for middle in middles]
    axes.bar(edges[:-1], counts, widths, align="edge", color=colours, edgecolor="white", linewidth=0.4)
    axes.axvline(0, color=_NEUTRAL, linewidth=1)
    axes.axvline(
        numbers["margin"], color=_NEUTRAL, linewidth=1.2, linestyle="--", label=f"mean {numbers['margin']:.3g}"
    )
    _legend(figure, axes)
    return figure


def draw_calibration(calibration: Mapping[str, Any]) -> Figure:
    """Draw accuracy over confidence; on the diagonal they agree."""
    figure, axes = _blank("Calibration", "confidence, sigmoid(|margin|)", "accuracy, fraction of pairs")
    bins = calibration["bins"]
    most = max(one["pairs"] for one in bins)
    axes.plot([0.5, 1], [0.5, 1], color=_NEUTRAL, linewidth=1, linestyle="--", label="confidence = accuracy")
    confidence, accuracy = ([one[key] for one in bins] for key in ("confidence", "accuracy"))
    axes.plot(confidence, accuracy, color=_CHOSEN, linewidth=1.2, label=f"ECE {calibration['ece']:.4f}")
    axes.scatter(confidence, accuracy, [24 + 100 * one["pairs"] / most for one in bins], color=_CHOSEN, zorder=3)
    axes.set(xlim=(0.48, 1.02), ylim=(min(0.45, min(accuracy) - 0.05), 1.05))
    _legend(figure, axes)
    return figure


def draw_lengths(correlation: Mapping[str, float | None], reward_E2: Floats, characters_E2: Ints) -> Figure:
    """Draw reward over length, for the first few thousand pairs."""
    figure, axes = _blank("Reward and length", "characters of the response", "reward")
    for side, label, colour in ((0, "chosen", _CHOSEN), (1, "rejected", _REJECTED)):
        points = (characters_E2[:_MOST_POINTS, side], reward_E2[:_MOST_POINTS, side])
        axes.scatter(*points, s=14, alpha=0.45, linewidths=0, color=colour, rasterized=True)
        axes.scatter([], [], s=30, linewidths=0, color=colour, label=label)  # large enough to see in a legend
    axes.locator_params(axis="x", integer=True)
    known = {name: value for name, value in correlation.items() if value is not None}
    _legend(figure, axes, ", ".join(f"{name.capitalize()} {value:+.3f}" for name, value in known.items()))
    return figure


def draw_tallies(
    title: str, what: str, tallies: Mapping[str, Mapping[str, float]], numbers: Mapping[str, Any]
) -> Figure:
    """Draw accuracies with their intervals, and the accuracy of all pairs as a line."""
    figure, axes = _blank(title, "accuracy, fraction of pairs", what, rows=len(tallies))
    accuracy = [one["accuracy"] for one in tallies.values()]
    spread = [[one["accuracy"] - one["low"] for one in tallies.values()]]
    spread.append([one["high"] - one["accuracy"] for one in tallies.values()])
    rows = list(range(len(tallies)))
    axes.barh(rows, accuracy, 0.6, color=_CHOSEN, alpha=0.8)
    axes.errorbar(accuracy, rows, xerr=spread, fmt="none", ecolor="#222222", capsize=3, label="95 % interval")
    axes.set_yticks(rows, [f"{_short(name)} ({one['pairs']:,.0f})" for name, one in tallies.items()])
    overall = numbers["overall"]["accuracy"]
    axes.axvline(overall, color=_NEUTRAL, linewidth=1.2, linestyle="--", label=f"all pairs {overall:.4f}")
    axes.set(xlim=(0, 1.02), ylim=(len(tallies) - 0.4, -0.6))
    _legend(figure, axes)
    return figure


def draw_best_of_n(curve: Mapping[str, Mapping[str, Any]], label: str) -> Figure:
    """Draw the mean label of the answer that the model picks among n, beside the best and a random choice."""
    figure, axes = _blank("Best of n", "answers to choose from, n", f"mean label: {_short(label)}")
    sizes = [int(n) for n in curve]
    for key, name, colour, style in (
        ("best", "best possible", _NEUTRAL, "--"),
        ("mean", "the model's choice", _CHOSEN, "-"),
        ("random", "a random choice", _NEUTRAL, ":"),
    ):
        marker = "o" if key == "mean" else None
        values = [of[key] for of in curve.values()]
        axes.plot(sizes, values, style, color=colour, label=name, linewidth=1.6, marker=marker, markersize=6)
    known = {int(n): of for n, of in curve.items() if of["low"] is not None}
    if known:
        low, high = ([of[key] for of in known.values()] for key in ("low", "high"))
        axes.fill_between(list(known), low, high, color=_CHOSEN, alpha=0.15, linewidth=0, label="95 % interval")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    _legend(figure, axes)
    return figure


def _blank(title: str, x: str, y: str, rows: int = 0) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, max(_HEIGHT, 1.6 + 0.3 * rows)), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """Put the legend below the panel, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = 1 if max(map(len, labels)) > _HALF_A_LINE else 2
        rows = -(-len(labels) // columns) + bool(title)
        figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * (rows - 1))
        figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns, frameon=False)


def _short(name: str) -> str:
    """Cut the middle out of a long name, as names often differ at their end.

    matplotlib would read $ as mathematics, and hide a label that begins with _.
    """
    half = _LONGEST_LABEL // 2
    short = name if len(name) <= _LONGEST_LABEL else f"{name[: half - 1]}…{name[-half:]}"
    return (f" {short}" if short.startswith("_") else short).replace("$", r"\$")

"""Figures of attacks, of malformed inputs and of faults -> Markdown."""

from __future__ import annotations

from typing import Any

Figures = dict[str, dict[str, Any]]
"""Name of a figure -> its value, unit, min and max."""


def attack_table(figures: Figures) -> str:
    """Write a table of attacks: what good clients saw meanwhile, and what the server held before and after."""
    lines = [
        "| attack | tried | good requests answered | not answered | good clients' p99, s | MiB before, after |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(name.split("/")[1] for name in figures):
        tried, answers, wrong, p99_s, before_bytes, after_bytes = (
            figures[f"serving_attack/{name}/{what}"]["value"]
            for what in (
                "tried", "good_answers", "good_requests_without_a_right_answer", "good_p99_s",
                "resident_bytes_before", "resident_bytes_after",
            )
        )  # fmt: skip
        sizes = f"{before_bytes / 2**20:,.0f}, {after_bytes / 2**20:,.0f}"
        lines.append(f"| {name} | {tried:,} | {answers:,} | {wrong} | {p99_s:.2f} | {sizes} |")
    return "\n".join(lines)


def malformed_table(figures: Figures) -> str:
    """Write a table with a kind of malformed inputs a row, and how many ended in which way."""
    ends = ("inputs", "read", "refused", "traceback", "endless", "killed")
    lines = [
        "| inputs | tried | read | refused in one message | traceback | without end | killed |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(name.split("/")[1] for name in figures):
        counts = " | ".join(f"{figures[f'malformed/{kind}/{end}']['value']:,}" for end in ends)
        lines.append(f"| {kind.replace('_', ' ')} | {counts} |")
    return "\n".join(lines)


def faults_table(figures: Figures) -> str:
    """Write a table of kinds of faults: how many there were, what was wrong after them, and how many a line named."""
    lines = [
        "| fault | times | then wrong | named in a line, of those that could be | tracebacks |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(name.split("/")[1] for name in figures):
        times, wrong, nameable, named, tracebacks = (
            figures[f"faults/{kind}/{what}"]["value"] for what in ("faults", "wrong", "nameable", "named", "tracebacks")
        )
        said = f"{named} of {nameable}" if nameable else "-"
        lines.append(f"| {kind} | {times} | {wrong} | {said} | {tracebacks} |")
    took_s = figures["faults/all/seconds"]["value"]
    return "\n".join([*lines, "", f"They took {took_s / 60:.0f} minutes."])

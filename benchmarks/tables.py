"""The documentation's tables and picture, made from the newest result files by `python -m benchmarks.tables`.

A table stands between two marks, `<!-- benchmarks.tables: NAME -->` and `<!-- end -->`, in README.md or a page of
docs/, and replaces the text between them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib

from benchmarks.markdown import all_layouts, speed_rows, table_of, weak_scaling
from benchmarks.markdown_trust import Figures
from benchmarks.results_file import RESULTS

REPO = RESULTS.parents[1]
_DOCS = REPO / "docs"
_PICTURE = _DOCS / "benchmarks" / "vs_trl.svg"
_MARKED = re.compile(r"(?<=<!-- benchmarks\.tables: )(\w+) -->\n.*?(?=<!-- end -->)", re.DOTALL)
_BENCHMARKS = {"speed": "vs_trl"}
"""Table -> its benchmark, where that has another name."""


def main() -> None:
    changed = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path, text in pages().items():
        path.write_text(text)
    draw(newest("vs_trl"))
    print(f"wrote {', '.join(str(path.relative_to(REPO)) for path in [*changed, _PICTURE])}")


def pages() -> dict[Path, str]:
    """Give each page that has figures, as it should read."""
    written = {
        _DOCS / "benchmarks" / "layouts.md": all_layouts(newest("layouts")),
        _DOCS / "benchmarks" / "weak_scaling.md": weak_scaling(newest("weak_scaling")),
    }
    for path in [REPO / "README.md", *sorted(_DOCS.rglob("*.md"))]:
        text = path.read_text()
        if _MARKED.search(text):
            written[path] = _MARKED.sub(lambda mark: _table(mark[1]), text)
    return written


def _table(name: str) -> str:
    # a blank line stands on both sides, as Markdown takes a table beside a comment for text
    return f"{name} -->\n\n{table_of(name, newest(_BENCHMARKS.get(name, name)))}\n\n"


def newest(benchmark: str) -> Figures:
    """Read the figures of the newest file, by name."""
    file = max(RESULTS.glob(f"{benchmark}-*.json"), key=lambda path: path.stem.rsplit("-", 1)[1])
    return {figure["name"]: figure for figure in json.loads(file.read_text())["figures"]}


def draw(figures: Figures) -> None:
    """Draw ratios with their spread, as bars."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "nemo_bt"
    figure, axes = pyplot.subplots(figsize=(9, 3.5))
    width = 0.38
    for number, (rival, label) in enumerate((("micro8", "TRL at micro-batch 8"), ("best", "TRL at its fastest"))):
        ratios = [figures[f"vs_trl/{case}/{rival}/pairs_per_second_ratio"] for case in speed_rows(figures).values()]
        values = [ratio["value"] for ratio in ratios]
        spread = [[r["value"] - r["min"] for r in ratios], [r["max"] - r["value"] for r in ratios]]
        places = [place + (number - 0.5) * width for place in range(len(values))]
        axes.bar(places, values, width, yerr=spread, capsize=3, label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    titles = [title.replace(", ", "\n") for title in speed_rows(figures)]
    axes.set_xticks(range(len(titles)), titles, fontsize=8)
    axes.set_ylabel("pairs/s of nemo_bt over TRL's")
    axes.legend()
    figure.tight_layout()
    figure.savefig(_PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()

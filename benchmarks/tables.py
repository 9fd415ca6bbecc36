"""README's tables and picture, made from the newest result files: `python -m benchmarks.tables`.

Each table stands between two marks in README.md; what was between them is replaced.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

from benchmarks.results_file import RESULTS

_README = Path(__file__).parents[1] / "README.md"
_END = "<!-- end -->"
_LAYOUTS = RESULTS.parent / "layouts.md"
_WEAK_SCALING = RESULTS.parent / "weak_scaling.md"
_PICTURE = RESULTS / "vs_trl.svg"
_ROWS = {
    f"{title}, {shape}{ranks}": f"{case}{size}{count}"
    for shape, size in (("4 x 256", ""), ("8 x 512", "_8x512"))
    for ranks, count in (("", ""), (", two ranks", "_2ranks"))
    for title, case in (("hh", "hh"), ("AlpacaEval", "alpaca_eval"))
}


def main() -> None:
    speed = newest("vs_trl")
    text = _README.read_text()
    tables = {
        "speed": speed_table(speed),
        "layouts": layouts_table(newest("layouts")),
        "plan_time": plan_time_table(newest("plan_time")),
        "scoring": scoring_table(newest("scoring")),
    }
    for name, table in tables.items():
        start = f"<!-- benchmarks.tables: {name} -->"
        before, found, rest = text.partition(start)
        _, ended, after = rest.partition(_END)
        if not found or not ended:
            raise SystemExit(f"README.md: expected the marks {start} and {_END}")
        text = f"{before}{start}\n{table}\n{_END}{after}"
    _README.write_text(text)
    _LAYOUTS.write_text(all_layouts(newest("layouts")))
    _WEAK_SCALING.write_text(weak_scaling(newest("weak_scaling")))
    draw(speed)
    written = ", ".join(str(path.relative_to(_README.parent)) for path in (_README, _LAYOUTS, _WEAK_SCALING, _PICTURE))
    print(f"wrote {written}")


def newest(benchmark: str) -> dict[str, dict[str, float]]:
    """Figures by name of the last day's file."""
    file = max(RESULTS.glob(f"{benchmark}-*.json"), key=lambda path: path.stem.rsplit("-", 1)[1])
    return {figure["name"]: figure for figure in json.loads(file.read_text())["figures"]}


def speed_table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown; a ratio with its smallest and largest turn."""
    lines = [
        "| pairs/s over TRL's RewardTrainer | pairs a step | at its micro-batch of 8 | at its fastest "
        "| peak memory, of TRL's at 8 | largest loss difference |",
        "|---|---|---|---|---|---|",
    ]
    for title, case in _rows(figures).items():
        start = f"vs_trl/{case}"
        cells = [_with_spread(figures[f"{start}/{rival}/pairs_per_second_ratio"]) for rival in ("micro8", "best")]
        cells[1] += f", of {figures[f'{start}/best/micro_batch']['value']:.0f}"
        memory, loss = (figures[f"{start}/{name}"] for name in ("micro8/peak_memory_ratio", "largest_loss_difference"))
        batch = figures[f"{start}/batch"]["value"]
        lines.append(f"| {title} | {batch:.0f} | {' | '.join(cells)} | {memory['value']:.2f} | {loss['max']:.1e} |")
    return "\n".join(lines)


def layouts_table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown; per model, how many layouts and the largest differences, the planner's too."""
    lines = ["| model | layouts | loss | weights | planned activations |", "|---|---|---|---|---|"]
    for model in dict.fromkeys(model for model, _ in _layouts(figures)):
        layouts = [layout for of, layout in _layouts(figures) if of == model]
        kinds = ("loss", "weights", "activations")
        worst = [max(figures[f"layouts/{model}/{layout}/{kind}"]["value"] for layout in layouts) for kind in kinds]
        lines.append(f"| {model} | {len(layouts)} | {worst[0]:.1e} | {worst[1]:.1e} | {worst[2]:.1%} |")
    return "\n".join(lines)


def plan_time_table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown; of each layout, planned seconds over measured ones, with their spread over steps."""
    lines = ["| layout | planned over measured seconds of a step |", "|---|---|"]
    return "\n".join(lines + [f"| {name.split('/')[1]} | {_with_spread(figure)} |" for name, figure in figures.items()])


def scoring_table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown; of each set, how many times as fast as transformers' pipeline."""
    lines = [
        "| conversations | over the pipeline at batch size 8 | at its fastest | largest difference of a reward |",
        "|---|---|---|---|",
    ]
    for case, title in (("hh", "hh"), ("alpaca_eval", "AlpacaEval")):
        count, best, difference = (
            figures[f"scoring/{case}/{name}"]["value"]
            for name in ("conversations", "fastest_pipeline_batch", "largest_difference_of_a_reward")
        )
        ratios = [_with_spread(figures[f"scoring/{case}/{rival}/ratio"]) for rival in ("batch8", "best")]
        lines.append(f"| {title}, {count:,.0f} | {ratios[0]} | {ratios[1]}, of {best:.0f} | {difference:.1e} |")
    return "\n".join(lines)


def all_layouts(figures: dict[str, dict[str, float]]) -> str:
    """Markdown; a layout a row."""
    lines = [
        "# Ten steps at every layout against ten on one rank",
        "",
        "`python -m benchmarks.layouts`, fp32 on CPU ranks; the largest relative difference of a loss and of a weight.",
        "Differences are those of sums in another order. Then what the planner is off by: bytes of activations (of the",
        "average rank where experts lie on several, else of the worst), and messages of a step, over all ranks.",
        "",
        "| model | layout | loss | weights | activations | messages |",
        "|---|---|---|---|---|---|",
    ]
    for model, layout in _layouts(figures):
        kinds = ("loss", "weights", "activations", "messages")
        loss, weights, off, unlike = (figures[f"layouts/{model}/{layout}/{kind}"]["value"] for kind in kinds)
        lines.append(f"| {model} | {layout} | {loss:.1e} | {weights:.1e} | {off:.1%} | {unlike} |")
    return "\n".join(lines) + "\n"


def weak_scaling(figures: dict[str, dict[str, float]]) -> str:
    """Markdown; a number of ranks and what they share a row, counted and planned side by side."""
    lines = [
        "# What a rank sends and waits for as ranks and batch grow together",
        "",
        "`python -m benchmarks.weak_scaling`: a Llama of 8 layers in fp32, eight pairs a step for each rank. Counted",
        "in a real step, and what `nemo_bt.planning` says of it; of the rank that sends most. Waiting is that of the",
        "order in which the stages computed, played through with 1 for a forward pass and 2 for a backward pass.",
        "",
        "| ranks share | ranks | MB sent, counted | planned | collectives, counted | planned | messages between stages "
        "| planned | waiting | planned |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    formats = {"bytes": lambda v: f"{v / 1e6:.6f}", "bubble": lambda v: f"{v:.4f}"}
    for start in dict.fromkeys(name.rsplit("/", 2)[0] for name in figures):
        _, shared, ranks = start.split("/")
        cells = [
            formats.get(kind, str)(figures[f"{start}/{kind}/{whose}"]["value"])
            for kind in ("bytes", "collectives", "peer_to_peer", "bubble")
            for whose in ("counted", "planned")
        ]
        lines.append(f"| {shared} | {ranks} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _layouts(figures: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    """Model and layout of each."""
    return [(name.split("/")[1], name.split("/")[2]) for name in figures if name.endswith("/loss")]


def _rows(figures: dict[str, dict[str, float]]) -> dict[str, str]:
    """Cases that were measured, by their title."""
    return {title: case for title, case in _ROWS.items() if f"vs_trl/{case}/batch" in figures}


def _with_spread(figure: dict[str, float]) -> str:
    return f"{figure['value']:.2f} ({figure['min']:.2f} to {figure['max']:.2f})"


def draw(figures: dict[str, dict[str, float]]) -> None:
    """Ratios with their spread, as bars."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "nemo_bt"
    figure, axes = pyplot.subplots(figsize=(9, 3.5))
    width = 0.38
    for number, (rival, label) in enumerate((("micro8", "TRL at micro-batch 8"), ("best", "TRL at its fastest"))):
        ratios = [figures[f"vs_trl/{case}/{rival}/pairs_per_second_ratio"] for case in _rows(figures).values()]
        values = [ratio["value"] for ratio in ratios]
        spread = [[r["value"] - r["min"] for r in ratios], [r["max"] - r["value"] for r in ratios]]
        places = [place + (number - 0.5) * width for place in range(len(values))]
        axes.bar(places, values, width, yerr=spread, capsize=3, label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(_rows(figures))), [title.replace(", ", "\n") for title in _rows(figures)], fontsize=8)
    axes.set_ylabel("pairs/s of nemo_bt over TRL's")
    axes.legend()
    figure.tight_layout()
    figure.savefig(_PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()

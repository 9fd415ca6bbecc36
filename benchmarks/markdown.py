"""Figures of result files -> Markdown. `benchmarks.tables` puts it into the pages."""

from __future__ import annotations

from benchmarks.markdown_trust import Figures, attack_table, faults_table, malformed_table

_ROWS = {
    f"{title}, {shape}{ranks}": f"{case}{size}{count}"
    for shape, size in (("4 x 256", ""), ("8 x 512", "_8x512"))
    for ranks, count in (("", ""), (", two ranks", "_2ranks"))
    for title, case in (("hh", "hh"), ("AlpacaEval", "alpaca_eval"))
}

_LISTS = {
    "long_prompts_p512_r64": "512, 64 tokens",
    "even_p192_r192": "192, 192 tokens",
    "alpaca_eval": "AlpacaEval",
}


_SCORED = {
    "hh": "hh",
    "alpaca_eval": "AlpacaEval",
    "hh_bytes": "hh, quickstart's model",
    "alpaca_eval_bytes": "AlpacaEval, quickstart's model",
}


def table_of(name: str, figures: Figures) -> str:
    """Write the table of a benchmark that is called `name` in a page's mark."""
    own = {
        "speed": speed_table,
        "layouts": layouts_table,
        "plan_time": plan_time_table,
        "scoring": scoring_table,
        "lists": lists_table,
        "serving_attack": attack_table,
        "traced": traced_table,
        "malformed": malformed_table,
        "faults": faults_table,
        "real_model_hh": real_model_table,
        "real_model_alpaca_eval": real_model_table,
    }
    return own.get(name, figures_table)(figures)


def traced_table(figures: Figures) -> str:
    """Write a table of layouts: GiB that are planned and traced, waits of the host and kernels of a step."""
    lines = [
        "| layout | planned, GiB | traced, GiB | planned over traced | waits a step | kernels a step |",
        "|---|---|---|---|---|---|",
    ]
    for layout in dict.fromkeys(name.split("/")[1] for name in figures):
        planned, traced, waits, launches = (
            figures[f"traced/{layout}/{what}"]["value"] for what in ("planned", "traced", "waits", "launches")
        )
        sizes = f"{planned / 2**30:.2f} | {traced / 2**30:.2f} | {planned / traced:.3f}"
        lines.append(f"| {layout} | {sizes} | {waits:.0f} | {launches:,.0f} |")
    return "\n".join(lines)


def figures_table(figures: Figures) -> str:
    """Write a table with a figure a row, with its smallest and largest where it was measured more than once."""
    lines = ["| what | figure | unit |", "|---|---|---|"]
    for name, figure in figures.items():
        what = " ".join(name.split("/")[1:]).replace("_", " ")
        spread = "" if figure["min"] == figure["max"] else f" ({_short(figure['min'])} to {_short(figure['max'])})"
        lines.append(f"| {what} | {_short(figure['value'])}{spread} | {figure['unit']} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    if float(value).is_integer() or abs(value) >= 1e5:
        return f"{value:,.0f}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def speed_table(figures: Figures) -> str:
    """Write a table of ratios, each with its smallest and largest turn."""
    lines = [
        "| pairs/s over TRL's RewardTrainer | pairs a step | at its micro-batch of 8 | at its fastest "
        "| peak memory, of TRL's at 8 | largest loss difference |",
        "|---|---|---|---|---|---|",
    ]
    for title, case in speed_rows(figures).items():
        start = f"vs_trl/{case}"
        cells = [_with_spread(figures[f"{start}/{rival}/pairs_per_second_ratio"]) for rival in ("micro8", "best")]
        cells[1] += f", of {figures[f'{start}/best/micro_batch']['value']:.0f}"
        memory, loss = (figures[f"{start}/{name}"] for name in ("micro8/peak_memory_ratio", "largest_loss_difference"))
        batch = figures[f"{start}/batch"]["value"]
        lines.append(f"| {title} | {batch:.0f} | {' | '.join(cells)} | {memory['value']:.2f} | {loss['max']:.1e} |")
    return "\n".join(lines)


def layouts_table(figures: Figures) -> str:
    """Write a table of each model's number of layouts and largest differences, the planner's too."""
    lines = ["| model | layouts | loss | weights | planned activations |", "|---|---|---|---|---|"]
    for model in dict.fromkeys(model for model, _ in _layouts(figures)):
        layouts = [layout for of, layout in _layouts(figures) if of == model]
        kinds = ("loss", "weights", "activations")
        worst = [max(figures[f"layouts/{model}/{layout}/{kind}"]["value"] for layout in layouts) for kind in kinds]
        lines.append(f"| {model} | {len(layouts)} | {worst[0]:.1e} | {worst[1]:.1e} | {worst[2]:.1%} |")
    return "\n".join(lines)


def plan_time_table(figures: Figures) -> str:
    """Write a table of each layout's planned seconds over measured ones, with their spread over steps."""
    lines = ["| layout | planned over measured seconds of a step |", "|---|---|"]
    return "\n".join(lines + [f"| {name.split('/')[1]} | {_with_spread(figure)} |" for name, figure in figures.items()])


def scoring_table(figures: Figures) -> str:
    """Write a table of each model's and set's speed, over transformers' pipeline and beside its own products."""
    lines = [
        "| conversations | over the pipeline at batch size 8 | at its fastest | time over that of its products alone "
        "| largest difference of a reward |",
        "|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(name.split("/")[1] for name in figures):
        count, best, difference = (
            figures[f"scoring/{case}/{name}"]["value"]
            for name in ("conversations", "fastest_pipeline_batch", "largest_difference_of_a_reward")
        )
        cells = [_with_spread(figures[f"scoring/{case}/{name}"]) for name in ("batch8/ratio", "best/ratio")]
        products = _with_spread(figures[f"scoring/{case}/over_products"])
        title = _SCORED[case]
        lines.append(
            f"| {title}, {count:,.0f} | {cells[0]} | {cells[1]}, of {best:.0f} | {products} | {difference:.1e} |"
        )
    return "\n".join(lines)


def lists_table(figures: Figures) -> str:
    """Write a table of each number of answers' speed as lists over pairs and over answers alone, with its bound."""
    lines = [
        "| prompt, answer | answers | over pairs | bound | over answers alone | bound |",
        "|---|---|---|---|---|---|",
    ]
    for case, title in _LISTS.items():
        for start in dict.fromkeys(name.rsplit("/", 1)[0] for name in figures if name.split("/")[1] == case):
            cells = [f"{title} | {start.rsplit('/K')[1]}"]
            for rival in ("pairs", "alone"):
                bound = figures[f"{start}/tokens_of_{rival}_over_list"]["value"]
                cells.append(f"{_with_spread(figures[f'{start}/speed_over_{rival}'])} | {bound:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def real_model_table(figures: Figures) -> str:
    """Write a table of both trainers on a set: accuracies with their 95 % intervals, time, memory and losses."""
    (start,) = {name.split("/")[0] for name in figures}
    accuracies = [_with_spread(figures[f"{start}/{whose}/accuracy"]) for whose in ("before", "nemo_bt", "trl")]
    speed = _with_spread(figures[f"{start}/pairs_per_second_ratio"])
    best = figures[f"{start}/trl/micro_batch"]["value"]
    memory, loss, pairs = (figures[f"{start}/{name}"] for name in ("peak_memory_ratio", "loss_difference", "pairs"))
    return "\n".join(
        [
            "| pairs | accuracy before | of nemo_bt | of TRL | pairs/s over TRL at its fastest "
            "| peak memory, of TRL's | largest loss difference |",
            "|---|---|---|---|---|---|---|",
            f"| {pairs['value']:.0f} | {' | '.join(accuracies)} | {speed}, of {best:.0f} | {memory['value']:.2f} "
            f"| {loss['max']:.1e} |",
        ]
    )


def all_layouts(figures: Figures) -> str:
    """Write a page with a row for each layout."""
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


def weak_scaling(figures: Figures) -> str:
    """Write a page with a row for each number of ranks and what they share, counted and planned side by side."""
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


def _layouts(figures: Figures) -> list[tuple[str, str]]:
    """List model and layout of each case."""
    return [(name.split("/")[1], name.split("/")[2]) for name in figures if name.endswith("/loss")]


def speed_rows(figures: Figures) -> dict[str, str]:
    """List the cases that were measured, by their title."""
    return {title: case for title, case in _ROWS.items() if f"vs_trl/{case}/batch" in figures}


def _with_spread(figure: dict[str, float]) -> str:
    return f"{figure['value']:.2f} ({figure['min']:.2f} to {figure['max']:.2f})"

"""Pictures of a report: what they show is what was measured, with units, and nothing lies on anything else."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from nemo_bt.evaluation.accuracy import Tally, tally
from nemo_bt.reporting.curves import Panel, Series, panels_of
from nemo_bt.reporting.numbers import calibration, numbers_of
from nemo_bt.reporting.pictures import (
    draw_best_of_n,
    draw_curves,
    draw_tallies,
    file_stems,
    pictures_of_run,
    pictures_of_set,
)
from tests.support.judged import judged

RECORDS = [
    {
        "step": step,
        "train/loss": 0.7 / step,
        "train/lr": 1e-6 * step,
        "train/reward_chosen": 0.1 * step,
        "train/reward_rejected": -0.1 * step,
        "train/tokens_per_second": 1e6 + step,
        "val/a set with a name that is longer than most/loss": 0.8 / step,
    }
    for step in range(1, 40)
]
CURVE = {
    str(2**n): {
        "mean": 0.5 + n / 20,
        "low": None if n == 5 else 0.4,
        "high": 0.8,
        "best": 1 - 0.5 / 2**n,
        "random": 0.5,
    }
    for n in range(6)
}
UNITS = (
    "label",
    "answers",
    "nats",
    "fraction",
    "reward",
    "steps",
    "per step",
    "tokens",
    "pairs",
    "characters",
    "confidence",
    "source",
)


def pictures() -> dict[str, Figure]:
    draw = np.random.default_rng(0)
    of_set = judged(5 * draw.normal(size=(300, 2)), draw.integers(0, 4000, (300, 2)))
    numbers = numbers_of(of_set, "32")
    names = {f"a source with a long name, number {i}": one for i, one in enumerate(numbers["by_source"].values())}
    numbers["by_source"] = names | {f"s{i}": one for i, one in enumerate(numbers["by_length"].values())}
    found = pictures_of_run(panels_of(RECORDS)) | pictures_of_set(
        numbers, of_set.rewards.given_E2, of_set.characters_E2
    )
    return found | {"best-of-n": draw_best_of_n(CURVE, "a column of labels with a long name")}


PICTURES = pictures()


def texts_of(figure: Figure) -> list[Text]:
    """Everything written in a picture that is seen."""
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.canvas.draw()
    (axes,) = figure.axes
    found = [axes.title, axes.xaxis.label, axes.yaxis.label, axes.xaxis.offsetText, axes.yaxis.offsetText]
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        found += [label for place, label in ticks if min(limits) <= place <= max(limits)]
    for legend in figure.legends:
        found += [*legend.get_texts(), legend.get_title()]
    return [text for text in found if text.get_visible() and text.get_text()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    return [(a, b) for (a, box), (b, other) in itertools.combinations(boxes, 2) if box.overlaps(other)]


@pytest.mark.parametrize("name", PICTURES)
def test_axes_have_labels_with_units_and_no_text_lies_on_another(name: str) -> None:
    figure = PICTURES[name]
    (axes,) = figure.axes
    assert axes.get_title()
    for label in (axes.get_xlabel(), axes.get_ylabel()):
        assert any(unit in label for unit in UNITS), label
    assert overlaps(figure) == []
    width, height = figure.canvas.get_width_height()
    for text in texts_of(figure):
        box = text.get_window_extent()
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text


def test_an_overlap_would_be_seen() -> None:
    figure = draw_curves(Panel("loss", "Loss", "nats", [Series("train", [1, 2], [0.7, 0.6])]))
    figure.axes[0].set_xticks([1.5, 1.501], ["a long label", "another one"])
    assert overlaps(figure) == [("a long label", "another one")]


def test_names_of_files_are_file_names_of_their_own() -> None:
    assert file_stems(["hh-2", "hh"]) == ["hh-2", "hh"]
    names = ["a_b-2", "a b", "a/b", "a_b", "x" * 300, "x" * 301, "ü"]
    stems = file_stems(names)
    assert len(set(stems)) == len(names)
    assert all(len(stem) < 100 and "/" not in stem and " " not in stem for stem in stems)


def test_names_are_no_mathematics_and_none_is_left_out() -> None:
    series = [Series(name, [1, 2], [0.7, 0.6]) for name in ("$a$b$\\q$", "_hidden", "c")]
    figure = draw_curves(Panel("loss", "Loss", "nats", series))
    texts_of(figure)  # draws
    (legend,) = figure.legends
    assert [text.get_text().replace("\\$", "$").strip() for text in legend.get_texts()] == [one.label for one in series]


@pytest.mark.parametrize("right", [0, 1])
def test_bars_of_shares_of_0_and_1_can_be_drawn(right: int) -> None:
    tallies = {str(total): Tally(right * total, 0, total).to_json() for total in range(1, 200)}
    assert all(one["low"] <= one["accuracy"] <= one["high"] for one in tallies.values())
    figure = draw_tallies("Accuracy", "source", tallies, {"overall": tallies["1"]})
    assert len(figure.axes[0].patches) == 199


def test_lines_are_the_logged_numbers() -> None:
    lines = {name: PICTURES[f"curves-{name}"].axes[0].get_lines() for name in ("loss", "rewards", "learning-rate")}
    for name, key in (("loss", "train/loss"), ("rewards", "train/reward_chosen"), ("learning-rate", "train/lr")):
        line = lines[name][0]
        assert list(line.get_xdata()) == [record["step"] for record in RECORDS]
        assert list(line.get_ydata()) == [record[key] for record in RECORDS]
    assert len(lines["loss"]) == len(lines["rewards"]) == 2


def test_the_curve_of_the_best_of_n_has_every_size() -> None:
    lines = PICTURES["best-of-n"].axes[0].get_lines()
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}
    sizes = [1, 2, 4, 8, 16, 32]
    keys = {"best possible": "best", "the model's choice": "mean", "a random choice": "random"}
    assert drawn == {name: (sizes, [of[key] for of in CURVE.values()]) for name, key in keys.items()}
    (band,) = PICTURES["best-of-n"].axes[0].collections
    assert set(band.get_paths()[0].vertices[:, 0]) == {1, 2, 4, 8, 16}  # where the interval is known


def test_bars_and_points_are_the_rewards() -> None:
    draw = np.random.default_rng(0)
    rewards_E2, characters_E2 = 5 * draw.normal(size=(300, 2)), draw.integers(0, 4000, (300, 2))
    margins = PICTURES["margins"].axes[0].patches
    counts, edges = np.histogram(rewards_E2[:, 0] - rewards_E2[:, 1], 40)
    assert [bar.get_height() for bar in margins] == counts.tolist()
    assert [bar.get_x() for bar in margins] == pytest.approx(edges[:-1].tolist())
    chosen = PICTURES["length"].axes[0].collections[0].get_offsets()
    assert np.array_equal(chosen, np.stack([characters_E2[:, 0], rewards_E2[:, 0]], axis=1))
    bars = PICTURES["by-length"].axes[0].patches
    ratios = characters_E2[:, 0] / np.maximum(1, characters_E2[:, 1])
    limits = [0, 0.5, 0.8, 1.25, 2.0, np.inf]
    inside = [(low <= ratios) & (ratios < high) for low, high in itertools.pairwise(limits)]
    accuracies = [(rewards_E2[i, 0] > rewards_E2[i, 1]).mean() for i in inside]
    assert [bar.get_width() for bar in bars] == pytest.approx(accuracies)
    intervals = PICTURES["by-length"].axes[0].collections[0].get_segments()
    expected = [tally(rewards_E2[i].tolist()).interval for i in inside]
    assert [tuple(ends[:, 0]) for ends in intervals] == [pytest.approx(one) for one in expected]
    overall = next(line for line in PICTURES["by-length"].axes[0].get_lines() if "all pairs" in line.get_label())
    assert list(overall.get_xdata()) == [pytest.approx((rewards_E2[:, 0] > rewards_E2[:, 1]).mean())] * 2


def test_the_curve_of_calibration_is_accuracy_over_confidence() -> None:
    draw = np.random.default_rng(0)
    rewards_E2 = 5 * draw.normal(size=(300, 2))
    bins = calibration(rewards_E2[:, 0] - rewards_E2[:, 1])["bins"]
    curve = PICTURES["calibration"].axes[0].get_lines()[1]
    assert list(curve.get_xdata()) == [one["confidence"] for one in bins]
    assert list(curve.get_ydata()) == [one["accuracy"] for one in bins]

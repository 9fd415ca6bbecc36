"""Results of nemo-bt evaluate on a report's page."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.errors import UserError
from nemo_bt.evaluation.best_of_n import Labelled, best_of_n
from nemo_bt.reporting.evaluated import pictures_of_results, read_results, shown
from nemo_bt.reporting.page import render
from tests.support.results import results_of

TOLD = {"model": "org/rm", "rows": 2, "rows_without_reward": 1}
CURVE = TOLD | {"kind": "best_of_n"} | best_of_n([Labelled([1.0, 3.0, 2.0, 0.0], [1.0, 0.0, 0.0, 1.0])] * 2, "correct")
CURVE_OF_NOTHING = {name: value for name, value in CURVE.items() if name != "labels"}
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r", "reward_chosen": 1.0, "reward_rejected": 0.0}
PAIRS = TOLD | results_of([PAIR, PAIR | {"reward_chosen": -1.0}])


def write(folder: Path, content: Any) -> Path:
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_the_page_has_tables_and_the_curve(tmp_path: Path) -> None:
    together = write(tmp_path / "both", {"mine": PAIRS, "<b>": CURVE})
    found = read_results([write(tmp_path / "alone", PAIRS), together])
    assert found == {"alone": PAIRS, "mine": PAIRS, "<b>": CURVE}
    sections = [
        {"name": name, "pictures": pictures_of_results(results)} | shown(results) for name, results in found.items()
    ]
    assert [list(one["pictures"]) for one in sections] == [[], [], ["best-of-n"]]
    page = render("run", "", {}, [], sections, [])
    assert page.count("<h2>Evaluated: ") == 3
    assert "&lt;b&gt;" in page
    assert "best_of_n, 2 rows, 1 more without a reward; scored by org/rm." in page
    assert page.count("Best of n: mean label: correct over answers to choose from, n") == 1
    for cell in ("best possible", "0.8333", "better over worse answers", "0.0945 to 0.9055"):
        assert f">{cell}<" in page


@pytest.mark.parametrize("content", [None, [], {"kind": "pairs"}, {"a": 3}, {"a": {"kind": "pairs"}}, CURVE_OF_NOTHING])
def test_what_is_no_result_is_refused_by_its_name(tmp_path: Path, content: Any) -> None:
    folder = write(tmp_path / "r", content) if content is not None else tmp_path
    expected = r"r/results\.json: expected results of nemo-bt" if content is not None else "found no results.json"
    with pytest.raises(UserError, match=expected):
        read_results([folder])


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    both = [write(tmp_path / "a", {"mine": PAIRS}), write(tmp_path / "b", {"mine": CURVE})]
    with pytest.raises(UserError, match="two sets are called mine"):
        read_results(both)

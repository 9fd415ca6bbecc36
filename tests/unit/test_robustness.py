"""Changes that should not matter: what each makes of a text, and what the report counts."""

import re
from typing import Any

import numpy as np
import pytest

from nemo_bt.data.formats.responses import Chat, Text
from nemo_bt.reporting import transforms
from nemo_bt.reporting.page import render
from nemo_bt.reporting.robustness import changed_sides, robustness
from tests.support.preferences import messages

CODE = "```\n# x\n\n  y\n```"


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ("more_space", "a\nb\n\n\nc", "a\n\nb\n\n\nc "),
        ("less_space", " a \n\n  b\n", "a\n  b"),
        ("more_space", CODE, CODE),
        ("curly_quotes", CODE + '"', CODE + '"'),
        ("less_space", CODE, CODE),
        ("loud_headings", "# Tea\nno # Tea\n### two words", "# TEA\nno # Tea\n### TWO WORDS"),
        ("without_markdown", "## Tea\n- **hot** and `dry`\n  1. two\na * b", "Tea\nhot and dry\n  two\na * b"),
        ("without_markdown", "__init__ is 2**3 and 4**5 or `x`y", "__init__ is 2**3 and 4**5 or `x`y"),
        ("without_markdown", CODE, CODE),
        ("curly_quotes", '"Tea," she said ("hot").', "\u201cTea,\u201d she said (\u201chot\u201d)."),
        ("plain_box", r"so \boxed{\frac{1}{2}} or \boxed{4}", r"so \frac{1}{2} or 4"),
        ("reversed_items", "x\n- a\n- b\n  - c\n  - d\n* e\n1. f\n2. g", "x\n- a\n- b\n  - d\n  - c\n* e\n1. f\n2. g"),
        ("reversed_items", "- a\n- b\n- c\ny\n- d\n- e", "- c\n- b\n- a\ny\n- e\n- d"),
        ("polite", "Tea?", "Please answer the following.\n\nTea?"),
    ],
)
def test_each_change_does_what_its_name_says(change: str, before: str, after: str) -> None:
    assert getattr(transforms, change)(before) == after


def test_pairs_change_where_there_is_something_to_change() -> None:
    sides = [Chat(messages("Tea?", "- yes\n- no")), Chat(messages("Tea?", "No."))]
    changed = changed_sides(sides)
    assert set(changed) == {
        "more space between lines",
        "Markdown taken off",
        "list items the other way round",
        "a polite sentence before the prompt",
    }
    assert changed["list items the other way round"] == [Chat(messages("Tea?", "- no\n- yes")), sides[1]]
    assert changed["a polite sentence before the prompt"][1].messages[0]["content"].endswith(".\n\nTea?")
    calls: Any = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert list(changed_sides([Chat([*messages("Tea?", "")[:1], calls])])) == ["a polite sentence before the prompt"]
    assert changed_sides([Text("", "- a\n- b")]) == {}  # where the response starts is not known
    (changed_text,) = changed_sides([Text("Tea? ", "- a\n- b")])["list items the other way round"]
    assert changed_text == Text("Tea? ", "- b\n- a")


def test_what_a_change_does_is_counted() -> None:
    given = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 1.0], [5.0, np.nan]])
    after = np.array([[0.0, 1.0], [np.nan, np.nan], [0.5, 1.0], [0.0, 1.0]])
    found = robustness(given, {"a": after, "b": np.full((4, 2), np.nan)}, ["row 0", "row 1", "row 2", "row 3"])
    assert list(found) == ["a"]
    assert found["a"] == {
        "pairs": 2,
        "accuracy": 0.5,
        "accuracy_after": 0.0,
        "turned": 0.5,
        "moved": pytest.approx((1 + 1 + 0.5 + 0) / 4),
        "worst": [{"where": "row 0", "margin": 1.0, "margin_after": -1.0}],
    }


def test_the_page_has_a_row_for_each_change() -> None:
    given, after = np.array([[1.0, 0.0], [2.0, 1.0]]), np.array([[0.0, 1.0], [2.5, 1.0]])
    found = robustness(given, {"a polite sentence": after, "none": np.full((2, 2), np.nan)}, ["row 0", "row 1"])
    tally = {"accuracy": 0.5, "low": 0.1, "high": 0.9, "ties": 0, "pairs": 2}
    swapped = {"accuracy": 0.5, "expected": 0.5, "not_turned": 0, "largest_difference": 0.0, "holds": True}
    numbers = {"pairs": 2, "pairs_without_reward": 0, "overall": tally, "longer_wins": 0.5, "margin": 0.1}
    numbers |= {"calibration": {"ece": 0.1}, "swapped": swapped, "prompt_only": {"tally": tally, "refused": 0}}
    numbers |= {"response_only": {"tally": tally, "refused": 0}}
    for of_set, is_there in ((numbers | {"robustness": found}, True), (numbers | {"robustness": {}}, False)):
        page = render("run", "", {}, [{"name": "s", "numbers": of_set, "pictures": {}, "worst": []}], [], [])
        assert ("<h3>Changes that should not matter</h3>" in page) == is_there
        cells = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]
        rows = [row for row in cells if row[:3] == ["a", "polite", "sentence"]]
        assert rows == (
            [["a", "polite", "sentence", "2", "1.0000", "0.5000", "50.0", "%", "0.625"]] if is_there else []
        )
        assert ("a polite sentence: row 0, margin +1.000 to -1.000." in page) == is_there

"""Thousands of changed files: each is read or refused in one message, and none starts or touches anything.

`python -m benchmarks.fuzz` does the same for an hour, from other numbers on.
"""

import json
import random
from pathlib import Path

import pytest

from tests.support import mutations
from tests.support.fuzz import MOST_BYTES, SOURCES, campaign, lay_clean


@pytest.fixture(scope="module")
def clean(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_clean(tmp_path_factory.mktemp("fuzz") / "clean", dataset / "tokenizer")


def test_changed_files_are_read_or_refused(clean: Path, tmp_path: Path) -> None:
    """20 s; the same inputs each time, as far as the machine gets, and at least one of each kind both ways."""
    found = campaign(clean, tmp_path, list(SOURCES), seconds=20)
    assert found.findings == {}
    assert found.peak_bytes < MOST_BYTES
    assert found.inputs >= 100
    assert {name for name, count in found.counts.items() if count} >= {f"{kind}/refused" for kind in SOURCES}


def test_the_guard_sees_what_pickle_itself_does_with_the_same_files(clean: Path, tmp_path: Path) -> None:
    found = campaign(clean, tmp_path, ["pickle"], seconds=60, last=200)
    assert found.inputs == 200
    assert any(text.startswith("forbidden: pickle.find_class ('posix', 'system'") for text in found.forbidden)
    assert len(found.forbidden) > 10


def test_a_changed_file_comes_from_its_number_alone() -> None:
    data = json.dumps({"a": {"b": [1, {"c": 2}], "d": "x"}, "e": [[]]}).encode()
    values = repr(mutations.VALUES)
    first = [mutations.of_json(data, random.Random(number)) for number in range(500)]
    assert repr(mutations.VALUES) == values
    assert [mutations.of_json(data, random.Random(number)) for number in range(500)] == first

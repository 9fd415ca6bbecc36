"""Steps on a GPU beside what traces foresaw: bytes by phase, and what has the host wait."""

from pathlib import Path

import pytest

from benchmarks.expected import RUNS, differences, expected, measure
from tests.support.gpu import needs_engine


@needs_engine
@pytest.mark.parametrize("name", [name for name in RUNS if "layers" in name])
def test_a_step_is_what_was_foreseen(name: str, dataset: Path, tmp_path: Path) -> None:
    assert differences(expected(name), measure(RUNS[name], dataset, tmp_path)[-1]) == []

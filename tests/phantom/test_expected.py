"""What is expected of a GPU is what a trace gives today, and what measures it on a GPU gives the same of a trace."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.expected import RUNS, differences, expected, of_record
from nemo_bt.phantom.record import Record, read_record
from nemo_bt.phantom.spec import read_spec
from tests.support.phantom import traced
from tests.support.runs import REPO
from tests.support.traced_runs import QUICK

RECORDED = {"llama3_8b_4_layers_bf16": "bf16", "llama3_8b_4_layers_bf16_recompute": "recompute"}
RECORDED |= {"llama3_8b_4_layers_fp8": "FP8 tensorwise"}


@pytest.mark.parametrize("name", RECORDED)
def test_the_files_are_those_of_the_program(record_of: Callable[[str], Record], name: str) -> None:
    """python -m benchmarks.expected writes them."""
    if RECORDED[name] not in QUICK and not os.environ.get("NEMO_BT_TEST_PHANTOM"):
        pytest.skip("make test-phantom")
    found = json.loads(json.dumps(of_record(record_of(RECORDED[name]), RUNS[name])))
    assert found == expected(name)


@pytest.mark.skipif(not os.environ.get("NEMO_BT_TEST_PHANTOM"), reason="make test-phantom")
def test_what_measures_a_gpu_measures_a_trace(dataset: Path, tmp_path: Path) -> None:
    """The callback of a GPU's run, in a trace, finds the bytes that the trace counts, phase by phase."""
    traced(RUNS["llama3_8b_4_layers_bf16"], dataset, tmp_path)
    command = [sys.executable, "-m", "tests.support.measured_trace", tmp_path / "spec.json", tmp_path / "out.json"]
    result = subprocess.run(list(map(str, command)), cwd=REPO, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    record = read_record(Path(read_spec(tmp_path / "spec.json").record))
    measured = json.loads((tmp_path / "out.json").read_text())
    assert len(measured) == len(record.steps)
    for found, step in zip(measured, record.steps, strict=True):
        assert found["peaks"] == dict(step.peaks)


def test_a_difference_is_told_with_its_numbers() -> None:
    planned = {"peaks": {"forward": 1000, "backward": 1000}, "waits": [["item", "optimizer", "a.py:1 f", 1]]}
    found = {"peaks": {"forward": 1020, "backward": 1100}, "waits": [["forward", "b.py:2 g", 3]]}
    assert differences(planned, found) == [
        "backward: expected 1,000 bytes at most, got 1,100",
        "optimizer: did not wait at a.py:1 f, 1 times",
        "forward: waited at b.py:2 g, 3 times",
    ]
    assert differences(planned, {"peaks": planned["peaks"], "waits": [["optimizer", "a.py:1 f", 1]]}) == []

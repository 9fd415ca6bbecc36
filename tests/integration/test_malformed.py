"""A share of the malformed inputs of benchmarks.malformed: each is read, or refused in one message."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import REPO

SHARES = {"data_files": 23, "configs": 37, "checkpoints": 31, "tokenizers": 41}
"""One in so many."""


@pytest.mark.parametrize("kind", SHARES)
def test_no_input_ends_in_a_traceback_goes_on_without_end_or_kills(kind: str, trained: tuple[Path, str]) -> None:
    command = [sys.executable, "-m", "benchmarks.malformed", "--kind", kind, "--every", str(SHARES[kind])]
    nemo = trained[0] / "checkpoints" / "reward-step5.nemo"
    result = subprocess.run([*command, "--nemo", str(nemo)], cwd=REPO, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{kind}: " in result.stdout
    assert "'refused': " in result.stdout

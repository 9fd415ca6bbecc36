"""A share of the malformed inputs of benchmarks.malformed: each is read, or refused in one message."""

import subprocess
import sys
from pathlib import Path

from tests.support.runs import REPO

KINDS = ("data_files", "configs", "checkpoints", "tokenizers")
_ONE_IN = 67


def test_no_input_ends_in_a_traceback_goes_on_without_end_or_kills(trained: tuple[Path, str]) -> None:
    nemo = trained[0] / "checkpoints" / "reward-step5.nemo"
    command = [sys.executable, "-m", "benchmarks.malformed", "--every", str(_ONE_IN), "--nemo", str(nemo)]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    for kind in KINDS:
        assert f"{kind}: " in result.stdout
    assert result.stdout.count("'refused': ") == len(KINDS)

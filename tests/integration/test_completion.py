"""What a shell completes; argcomplete has a process answer each Tab."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("typed", "first", "others"),
    [
        ("tr", "train", []),
        ("train model.optim.l", "model.optim.lr=", []),
        ("train model.fp8_recipe=", "model.fp8_recipe=delayed", ["model.fp8_recipe=mxfp8"]),
        ("train model.sequence_parallel=", "model.sequence_parallel=true", ["model.sequence_parallel=false"]),
        ("plan cluster=b", "cluster=b200", []),
        ("train --config-name recipe/rlh", "recipe/rlhflow_gemma_2b", ["recipe/rlhflow_llama3_8b"]),
        ("evaluate evaluate.k", "evaluate.kind=", []),
    ],
)
def test_a_shell_completes_commands_keys_and_values(tmp_path: Path, typed: str, first: str, others: list[str]) -> None:
    line = f"nemo-bt {typed}"
    given = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}
    given |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_COMP_WORDBREAKS": ""}
    subprocess.run([sys.executable, "-m", "nemo_bt"], env=os.environ | given, check=False, timeout=60)
    found = (tmp_path / "found").read_text().split("\n")
    assert found[0].strip() == first
    assert set(others) <= set(found)

"""What the user sees of what libraries print."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.hf_models import save
from tests.support.screen import on_terminal, shown

_CODE = """
import os, sys
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import held_back
print("before")
with held_back():
    print("noise of Python")
    os.write(2, b"noise of C\\n")
    {ends}
print("after")
"""


@pytest.mark.parametrize(
    ("ends", "shows_noise", "last"),
    [
        ("pass", False, ""),
        ("raise KeyError('broken')", True, "KeyError: 'broken'"),
        ("raise UserError('mend it')", False, "nemo_bt.errors.UserError: mend it"),
        ("sys.exit(3)", False, ""),
    ],
)
def test_noise_is_shown_where_something_breaks(ends: str, shows_noise: bool, last: str) -> None:
    code = _CODE.format(ends=ends)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines() == (["before", "after"] if ends == "pass" else ["before"])
    lines = result.stderr.splitlines()
    assert (
        lines[:2] == ["noise of C", "noise of Python"] or lines[:2] == ["noise of Python", "noise of C"]
    ) == shows_noise
    assert (lines[-1] if lines else "") == last


def test_a_library_that_asks_gets_no_answer(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom nemo_bt.observability.terminal import divert_output\n"
        f"stdout, _ = divert_output(Path({str(tmp_path / 'nemo.log')!r}))\nprint('Enter your choice:')\n"
        "print(repr(sys.stdin.read()), file=stdout)"
    )
    result = subprocess.run([sys.executable, "-c", code], input="2\n", capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("''\n", "")
    assert (tmp_path / "nemo.log").read_text() == "Enter your choice:\n"


def test_validate_takes_its_bar_away_before_it_says_anything(dataset: Path, tmp_path: Path, tokenizer: Any) -> None:
    """The bar of the weights is there, gone when validation has its say, and nothing of it is left."""
    model = save("qwen3", tmp_path / "model", tokenizer=tokenizer)
    command = [sys.executable, "-m", "nemo_bt", "validate", f"model.restore_from_path={model}"]
    command += [f"+model.data.validation.held_out={dataset / 'random_val.parquet'}", "trainer.accelerator=cpu"]
    command += [f"exp_manager.explicit_log_dir={tmp_path / 'log'}"]
    status, written = on_terminal(command)
    before, said, after = written.partition("  validation held_out: loss ")
    assert (status, bool(said)) == (0, True), written
    assert "MB of weights" in before
    assert "MB of weights" not in after
    assert "\x1b[?25l" not in after  # as a bar begins
    lines, has_cursor = shown(written)
    assert has_cursor
    assert not [line for line in lines if "MB of" in line or "\u2501" in line]
    (line,) = [line for line in lines if "validation held_out" in line]
    assert line.startswith("  validation held_out: loss ")
    assert line.endswith("of 37 pairs")

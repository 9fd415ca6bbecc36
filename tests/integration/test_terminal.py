"""What the user sees of what libraries print."""

import subprocess
import sys
from pathlib import Path

import pytest

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

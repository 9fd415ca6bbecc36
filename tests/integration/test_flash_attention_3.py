"""torch's FlashAttention operator calls FlashAttention 3 where a process finds its package: its registry says so."""

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = """
from torch.library import Library

library = Library("flash_attn_3", "DEF")
library.define("fwd(Tensor q) -> Tensor")
"""
"""Of FlashAttention 3's package, what torch looks for: operators by their names."""
BACKWARD = 'library.define("bwd(Tensor q) -> Tensor")\n'
ASK = """
from torch.nn.attention import current_flash_attention_impl
from nemo_bt.model.attention.choice import Gpu, use_flash_attention_3

for capability in ((8, 0), (10, 0), (9, 0)):
    print(*use_flash_attention_3(Gpu(capability, True, 92000)), current_flash_attention_impl(), sep="|")
"""


def asked_beside(folder: Path) -> list[str]:
    """What a process says that finds a package in the folder; here torch would keep what it is told."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", ""), *sys.path])
    command = [sys.executable, "-c", ASK]
    found = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_flash_attention_3_is_used_on_hopper_where_its_package_is(tmp_path: Path) -> None:
    (tmp_path / "flash_attn_interface.py").write_text(PACKAGE + BACKWARD)
    assert asked_beside(tmp_path) == ["False||None", "False||None", "True||FA3"]


def test_a_package_that_cannot_be_used_is_named_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "flash_attn_interface.py").write_text(PACKAGE)
    assert asked_beside(tmp_path)[-1].startswith("False|RuntimeError: Module 'flash_attn_interface' does not expose")
    (tmp_path / "flash_attn_interface.py").write_text("import no_such_library")
    assert asked_beside(tmp_path)[-1] == "False|ModuleNotFoundError: No module named 'no_such_library'|None"

"""Rules about the source itself: sizes, import boundaries, and the README's file tree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import REPO

SOURCES = [
    path
    for folder in ("nemo_bt", "conf", "converters", "tests", "benchmarks")
    for path in (REPO / folder).rglob("*.py")
    if not {REPO / "nemo_bt" / "conf", REPO / "nemo_bt" / "converters"} & set(path.parents)
]
FLOORS = [
    "errors", "files", "metrics", "flops", "batching", "cpu", "config", "loss", "launching", "pretrained",
    "observability", "model.attention", "model",
    "data.read", "data.formats", "data.tokenize", "data.pairs", "data.store", "data", "checkpoint",
    "training.steps", "training.callbacks", "training",
    "planning", "scoring", "evaluation", "serving", "reporting", "cli", "api", "quickstart", "gpu_setup", "__main__",
]  # fmt: skip
"""Folders and files of nemo_bt from the ground up: each may import those before it, and none behind it."""
MAY_IMPORT_NEMO = [
    "model", "training.callbacks", "training.steps.data_module", "training.trainer", "training.lr_schedule",
    "training.strategy", "scoring.engine",
]  # fmt: skip
"""All others can be imported where NeMo, Megatron and Lightning are not."""
LINKED = ("conf", "converters")
"""In nemo_bt/, links to the folders beside it."""
MODULES = {
    ".".join(path.relative_to(REPO / "nemo_bt").with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((REPO / "nemo_bt").rglob("*.py"))
    if path.relative_to(REPO / "nemo_bt").parts[0] not in LINKED
}
"""By their names below nemo_bt."""


def is_below(module: str, folders: list[str]) -> bool:
    return any(module == folder or module.startswith(f"{folder}.") for folder in folders)


def floor_of(module: str) -> int:
    """Of the innermost folder that has one."""
    parts = module.split(".")
    return next(FLOORS.index(place) for n in range(len(parts), 0, -1) if (place := ".".join(parts[:n])) in FLOORS)


def imports_of(path: Path) -> set[str]:
    """Modules of nemo_bt that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("nemo_bt.") for name in found} & MODULES.keys()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"__init__"}))
def test_a_floor_imports_only_those_below_it(module: str) -> None:
    own = floor_of(module)
    assert {other for other in imports_of(MODULES[module]) if floor_of(other) > own} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_files_and_functions_stay_small(path: object) -> None:
    text = path.read_text()
    assert text.count("\n") <= 250
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno + 1 > 60} == {}


def test_pure_modules_import_neither_nemo_nor_megatron() -> None:
    pure = [name for name in MODULES if not is_below(name, MAY_IMPORT_NEMO) and name != "__init__"]
    code = (
        "import sys\n"
        "for blocked in ('nemo', 'megatron', 'lightning'): sys.modules[blocked] = None\n"
        + "".join(f"import nemo_bt.{name}\n" for name in pure)
        + "assert 'transformers' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_importing_cpu_changes_nothing() -> None:
    code = (
        "import torch\nbefore = dict(vars(torch)), dict(vars(torch.cuda)), dict(vars(torch.Tensor))\n"
        "import nemo_bt.cpu.device\nafter = dict(vars(torch)), dict(vars(torch.cuda)), dict(vars(torch.Tensor))\n"
        "assert all(old[k] is new[k] for old, new in zip(before, after) for k in old)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_start_on_a_cpu_compiles_nothing() -> None:
    code = (
        "import torch.utils.cpp_extension as extension\n"
        "extension.load_inline = lambda *_, **__: exit('compiled')\n"
        "from nemo_bt.cpu.device import install\ninstall()\nimport megatron.core.inference.unified_memory\n"
        "assert extension.load_inline.__name__ == '<lambda>'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_no_duration_is_measured_by_a_clock_that_may_jump() -> None:
    """The time of day is only shown, and compared with times of files."""
    clock = r"time\.time\(\)|datetime\.now\("
    product = [path for path in SOURCES if path.is_relative_to(REPO / "nemo_bt")]
    users = {str(path.relative_to(REPO)) for path in product if re.search(clock, path.read_text())}
    shown = {"nemo_bt/observability/events.py", "nemo_bt/cli/status.py", "nemo_bt/serving/protocol.py"}
    assert users <= {*shown, "nemo_bt/data/read/files.py"}

"""Rules about the source itself: sizes, import boundaries, and README's map of the folders."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.runs import REPO
from tests.support.tree import LINKED, MODULES, SOURCES

FLOORS = [
    "errors", "files", "foreign", "metrics", "batching", "cpu", "config", "loss", "losses", "launching", "pretrained",
    "flops", "observability", "model.attention", "model",
    "data.read", "data.formats", "data.tokenize", "data.pairs", "data.store", "data", "checkpoint",
    "training.steps", "training.callbacks", "training", "gpu_setup", "phantom",
    "planning", "scoring", "evaluation", "serving", "reporting", "cli", "api", "quickstart", "__main__",
]  # fmt: skip
"""Folders and files of nemo_bt from the ground up: each may import those before it, and none behind it."""


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


def test_no_duration_is_measured_by_a_clock_that_may_jump() -> None:
    """The time of day is only shown, and compared with times of files."""
    clock = r"time\.time\(\)|datetime\.now\("
    product = [path for path in SOURCES if path.is_relative_to(REPO / "nemo_bt")]
    users = {str(path.relative_to(REPO)) for path in product if re.search(clock, path.read_text())}
    shown = {"nemo_bt/observability/events.py", "nemo_bt/cli/status.py", "nemo_bt/serving/protocol.py"}
    assert users <= {*shown, "nemo_bt/data/read/files.py"}


TESTS = [path for path in SOURCES if path.is_relative_to(REPO / "tests") or path.is_relative_to(REPO / "benchmarks")]
TESTED = re.compile(r"tests\.(\w+\.)*(test_\w+|conftest)\b")
LAUNCHERS = {"convert", "disturb", "multiprocessing", "nemo_bt", "run_together", "subprocess", "torchrun"}


def names_imported(path: Path) -> set[str]:
    """Modules, and what is imported from them, wherever in a file."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        for name in (alias.name, f"{node.module}.{alias.name}")
    }


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(REPO)))
def test_nothing_is_imported_from_a_test(path: Path) -> None:
    """What several of them need is in tests/support."""
    assert {name for name in names_imported(path) if TESTED.match(name)} == set()


@pytest.mark.parametrize("path", [path for path in TESTS if path.parent.name == "unit"], ids=lambda path: path.stem)
def test_unit_tests_start_no_process(path: Path) -> None:
    """That they import neither NeMo nor Megatron, a fixture looks at."""
    assert names_imported(path) & LAUNCHERS == set()


SHIPPED = ("nemo_bt", "conf", "converters")
PACKAGES = [path for path in SOURCES if path.name == "__init__.py" and path.relative_to(REPO).parts[0] in SHIPPED]


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: str(path.parent.relative_to(REPO)))
def test_a_folder_says_what_is_in_it(path: Path) -> None:
    """All of it, and in what one is told to read nothing else."""
    text = ast.get_docstring(ast.parse(path.read_text()))
    paths = [other for other in path.parent.iterdir() if other.suffix == ".py" or other.is_dir()]
    inside = {other.stem for other in paths} - {"__init__", "__pycache__"}
    assert inside - set(re.findall(r"`(\w+)/?`", text)) == set()
    to_read = " ".join(part for part in text.split("\n\n") if part.startswith("Read "))
    assert set(re.findall(r"`([a-z_]+)/?`", to_read)) - inside == set()


def test_readme_is_short_and_its_map_has_every_folder() -> None:
    text = (REPO / "README.md").read_text()
    assert len(text.encode()) < 10_000
    folders = {path.name for path in (REPO / "nemo_bt").iterdir() if (path / "__init__.py").exists()} - {*LINKED}
    assert re.findall(r"`nemo_bt/(\w+)/`", text) == sorted(folders)

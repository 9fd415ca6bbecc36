"""Packages that are put off: what runs their `__init__.py`, and when."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from nemo_bt.foreign.put_off import PUT_OFF, Package, is_put_off, put_off, when_called

FILES = {
    "kept/__init__.py": "from kept.part import value\nlater = 3",
    "kept/part.py": "value = 1",
    "whole/__init__.py": "order = ['whole']\nfrom whole.part import value",
    "whole/part.py": "from whole import order\norder.append('part')\nvalue = 2",
    "whole/below/__init__.py": "from whole import order\norder.append('below')\ndef called(n): return n + 1\nother = 4",
    "whole/below/deep.py": "from whole.below import other\nvalue = other",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, package in {
        "kept": Package(has_used_modules=True, known={"version": lambda: "1.0"}),
        "whole": Package(),
        "whole.below": Package(known={"called": when_called("whole.below", "called")}),
        "none.such": Package(),
    }.items():
        monkeypatch.setitem(PUT_OFF, name, package)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("kept", "whole")]:
        del sys.modules[name]


def imported(name: str) -> ModuleType:
    with put_off():
        return importlib.import_module(name)


def test_a_used_module_is_imported_without_the_package(packages: None) -> None:
    assert imported("kept.part").value == 1
    kept = sys.modules["kept"]
    assert is_put_off("kept")
    assert kept.version == "1.0"
    assert not hasattr(kept, "__wrapped__")
    assert is_put_off("kept")
    assert kept.later == 3
    assert not is_put_off("kept")
    assert kept.value == 1
    assert kept.__spec__.loader is kept.__loader__


def test_a_module_below_runs_the_package_first(packages: None) -> None:
    whole = imported("whole")
    assert is_put_off("whole")
    assert is_put_off("whole.below")
    assert importlib.import_module("whole.part").value == 2
    assert not is_put_off("whole")
    assert is_put_off("whole.below")
    assert whole.order == ["whole", "part"]
    assert importlib.import_module("whole.below.deep").value == 4
    assert whole.order == ["whole", "part", "below"]


def test_a_known_name_loads_nothing_until_it_is_called(packages: None) -> None:
    with put_off():
        from whole.below import called
    assert is_put_off("whole.below")
    assert is_put_off("whole")
    assert called(4) == 5
    assert sys.modules["whole"].order == ["whole", "part", "below"]


def test_what_is_imported_outside_is_as_always(packages: None) -> None:
    assert importlib.import_module("whole").order == ["whole", "part"]
    assert imported("whole.below").other == 4  # its first import is in the block
    with put_off(), pytest.raises(ModuleNotFoundError):
        importlib.import_module("none.such")


def test_a_star_takes_all_names(packages: None) -> None:
    imported("whole.below")
    taken: dict[str, object] = {}
    exec("from whole.below import *", taken)
    assert taken["other"] == 4
    assert {"called", "other"} <= taken.keys()


def test_a_name_that_is_nowhere_is_named(packages: None) -> None:
    with pytest.raises(AttributeError, match="module 'kept' has no attribute 'nothing'"):
        _ = imported("kept").nothing
    assert not is_put_off("kept")

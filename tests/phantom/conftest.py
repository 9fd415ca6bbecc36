"""Runs on a GPU of shapes alone: a process for each, about ten seconds. `make test-phantom` has all layouts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_bt.phantom.record import Record
from tests.support.numbers import Runs
from tests.support.phantom import missing, traced
from tests.support.traced_runs import MORE, QUICK

LACKS = missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if LACKS and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=LACKS))


@pytest.fixture(scope="session")
def record_of(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Record]:
    """Trace a run by its name, once."""
    records: dict[str, Record] = {}
    folder = tmp_path_factory.mktemp("phantom")

    def record_of(name: str) -> Record:
        if name not in records:
            run = (QUICK | MORE)[name]
            records[name] = traced(run, dataset, folder / name.replace(" ", "_"))
        return records[name]

    return record_of


@pytest.fixture(scope="session")
def numbers_of(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Compute a run by its name, and by its model where that is not the one of four layers, once."""
    return Runs(dataset, tmp_path_factory.mktemp("numbers"))

"""What a step on a GPU does at every layout: where the host waits, what memory it takes, in which dtypes it computes.

`make test` traces six layouts, `make test-phantom` all of them.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_bt.phantom.record import MICRO_BATCH, Record, Section
from tests.support.phantom import MORE, QUICK, Planned

RECORD_OF = Callable[[str], Record]
RUNS = QUICK | (MORE if os.environ.get("NEMO_BT_TEST_PHANTOM") else {})


def last_step(record: Record) -> Section:
    """The last step, after the run has come that far."""
    assert record.failure is None
    return record.steps[-1]


@pytest.mark.parametrize("name", RUNS)
def test_nothing_waits_in_a_micro_batch(record_of: RECORD_OF, name: str) -> None:
    waits = [wait for wait in last_step(record_of(name)).waits if wait.phase in MICRO_BATCH]
    print(waits)


@pytest.mark.parametrize("name", RUNS)
def test_peak(record_of: RECORD_OF, name: str, dataset: Path, tmp_path: Path) -> None:
    step = last_step(record_of(name))
    ratio = Planned(RUNS[name], dataset, tmp_path).total / step.peak
    print(name, ratio)

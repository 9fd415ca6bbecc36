"""Launches that tests share: of the runs that their modules plan, those that the selected tests read.

A module of tests has `planned_runs(dataset, folder)`, which gives its runs by number of ranks. A test reads the runs
that the mark `runs` and its parameter `name` tell, or all of its module where neither does, and those that these start
from. What all selected tests read is trained in one launch for each number of ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.runs import Run, run_together

Planner = Callable[[Path, Path], dict[int, list[Run]]]
"""From the data set and the module's folder."""


@dataclass(frozen=True)
class Plan:
    """Runs of a module by number of ranks, and the folder of their log directories."""

    folder: Path
    runs: dict[int, list[Run]]

    def read_by(self, test: pytest.Item) -> frozenset[str]:
        """Names of the runs that a test reads, and of those that they start from."""
        runs = [run for some in self.runs.values() for run in some]
        planned = {run.name for run in runs}
        told = {name for mark in test.iter_markers("runs") for name in mark.args}
        if hasattr(test, "callspec") and "name" in test.callspec.params:
            told.add(test.callspec.params["name"])
        assert told <= planned, f"{test.nodeid}: no run is called {told - planned}"
        read = told or planned
        while more := {start.name for start in runs for run in runs if run.name in read and run.needs(start)} - read:
            read |= more
        return frozenset(read)


@dataclass(frozen=True)
class Logs:
    """Log directories of a module's runs, for a test.

    Args:
        folder: the module's, with what `planned_runs` wrote there.
        read: runs that the test says it reads, and those that they start from.
    """

    folder: Path
    read: frozenset[str]

    def __truediv__(self, name: str) -> Path:
        """Give the log directory of a run. Another test's may not have been trained: it is refused."""
        assert name in self.read, f"the test reads {name}, and its mark `runs` does not tell so"
        return self.folder / name

    def output(self, num_ranks: int) -> str:
        """Give what the launch with so many ranks printed."""
        return (self.folder.parent / f"output-{num_ranks}.txt").read_text()


def launch(tests: Sequence[pytest.Item], dataset: Path, folder: Path) -> dict[Planner, Plan]:
    """Train what the tests read. Modules that name the same `planned_runs` share its runs."""
    plans: dict[Planner, Plan] = {}
    read: dict[Planner, set[str]] = {}
    for test in tests:
        planner = test.module.planned_runs
        if planner not in plans:
            own = folder / planner.__module__.rpartition(".")[2]
            own.mkdir()
            plans[planner], read[planner] = Plan(own, planner(dataset, own)), set()
        read[planner] |= plans[planner].read_by(test)
    for num_ranks in sorted({num_ranks for plan in plans.values() for num_ranks in plan.runs}):
        runs = [
            run for planner, plan in plans.items() for run in plan.runs.get(num_ranks, []) if run.name in read[planner]
        ]
        if runs:
            run_together(num_ranks, runs, folder, timeout_s=1500)
    return plans

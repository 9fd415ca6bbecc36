"""The memory that `nemo-bt plan` counts of a rank, beside what a trace of the program has alive at its most.

python -m benchmarks.traced [--only "bf16" "FP8 tensorwise"]

Each layout of tests/support/phantom.py is traced on a GPU of shapes alone, ten seconds each, for two steps; the second
is compared. With --only the other layouts keep the figures that the file has of them. Waits are how often the host
waits for the GPU in a step that is not logged, launches are its kernels.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.results_file import RESULTS, Figure, write_figures
from nemo_bt.planning.memory import GIB
from tests.support.phantom import Planned, missing, traced
from tests.support.preferences import write_sets
from tests.support.traced_runs import MORE, QUICK, RECIPES, Traced

_RUNS = RECIPES | QUICK | MORE
_COMMAND = "python -m benchmarks.traced"


@dataclass(frozen=True)
class Compared:
    """A layout: bytes that are planned and traced, waits and launches of a step."""

    planned: int
    traced: int
    waits: int
    launches: int

    def figures(self, name: str) -> list[Figure]:
        """Give them as figures `traced/<layout>/...`."""
        units = {"planned": "bytes", "traced": "bytes", "waits": "waits", "launches": "kernels"}
        values = {key: float(getattr(self, key)) for key in units}
        return [Figure(f"traced/{name}/{key}", value, units[key], value, value) for key, value in values.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(_RUNS), default=list(_RUNS), metavar="NAME")
    names = parser.parse_args().only
    lacks = missing()
    if lacks:
        parser.error(lacks)
    path = RESULTS / f"traced-{torch.__version__.partition('+')[0]}.json"
    figures = _figures_of(path)
    with TemporaryDirectory() as folder:
        write_sets(Path(folder) / "data")
        for name in names:
            found = compared(_RUNS[name], Path(folder))
            print(
                f"{name:32s} planned {found.planned / GIB:7.3f} GiB, traced {found.traced / GIB:7.3f} GiB, "
                f"{found.planned / found.traced:.4f}; {found.waits} waits, {found.launches} launches",
                flush=True,
            )
            figures |= {figure.name: figure for figure in found.figures(name)}
            known = [figure for figure in figures.values() if figure.name.split("/")[1] in _RUNS]
            write_figures(path, _COMMAND, known)


def compared(run: Traced, folder: Path) -> Compared:
    """Trace a layout and plan the same rank, with `folder`/data as its data.

    Raises:
        RuntimeError: the traced run failed.
    """
    with TemporaryDirectory(dir=folder) as own:
        record = traced(run, folder / "data", Path(own))
        planned = Planned(run, folder / "data", Path(own)).memory.total
    if record.failure:
        raise RuntimeError(f"{' '.join(run.overrides)}: {record.failure.kind}: {record.failure.message}")
    step = record.steps[-1]
    return Compared(planned, step.peak, sum(wait.count for wait in step.waits), sum(step.launches.values()))


def _figures_of(path: Path) -> dict[str, Figure]:
    """Read the figures of an earlier run, by name."""
    given = json.loads(path.read_text())["figures"] if path.exists() else []
    return {one["name"]: Figure(**one) for one in given}


if __name__ == "__main__":
    main()

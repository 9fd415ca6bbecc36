"""What a campaign of faults draws, changes and counts; `python -m benchmarks.faults` runs one."""

import random
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.fault_acts import change_bytes
from benchmarks.fault_kinds import KINDS
from benchmarks.fault_place import Fault
from benchmarks.fault_runs import LAYOUTS, Told, drawn_faults
from benchmarks.faults import figures_of
from benchmarks.markdown_trust import faults_table


@pytest.mark.parametrize("how", ["bit", "cut", "zeros", "lost"])
def test_a_damaged_file_is_another_one(tmp_path: Path, how: str) -> None:
    """Zeros at its end too, where it ended in zeros before."""
    file, whole = tmp_path / "file", b"content" + bytes(50)
    for seed in range(100):
        file.write_bytes(whole)
        change_bytes(file, how, random.Random(seed))
        if how == "lost":
            assert not file.exists()
        else:
            assert file.read_bytes() != whole
            assert len(file.read_bytes()) == len(whole) or how == "cut"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kind_that_can_befall_a_layout_does_before_one_comes_again(layout: str) -> None:
    faults = drawn_faults(100, layout, seed=3)
    assert faults == drawn_faults(100, layout, seed=3)
    assert faults != drawn_faults(100, layout, seed=4)
    kinds = [fault.kind for fault in faults]
    first = kinds[: len(set(kinds))]
    assert len(set(first)) == len(first)
    assert (1 if layout == "one rank" else 2) >= max(KINDS[kind].fewest_ranks for kind in kinds)


def test_the_table_counts_what_became_of_faults() -> None:
    def told(kind: str, **what: object) -> dict[str, object]:
        return asdict(Told("PP2", Fault(kind, "step", 0, 0), **what))  # type: ignore[arg-type]

    lines = [
        told("SIGTERM", named=True),
        told("SIGTERM", named=False, has_traceback=True),
        told("torn log", named=None),
        told("run to the end", wrong=["a weight"]),
    ]
    rows = faults_table({figure.name: asdict(figure) for figure in figures_of(lines, took_s=90)}).splitlines()
    assert rows[2:] == [
        "| SIGTERM | 2 | 0 | 1 of 2 | 1 |",
        "| torn log | 1 | 0 | - | 0 |",
        "| all | 3 | 1 | 1 of 2 | 1 |",
        "",
        "They took 2 minutes.",
    ]

"""Disturb runs at random moments, have them go on, and compare with runs that nobody disturbed, bit for bit.

python -m benchmarks.faults [--faults 100] [--seed 1] [--jobs 2] [--layouts "TP2 SP" ...] [--record FILE]

`benchmarks/fault_kinds.py` has the kinds. A start of a run suffers several: some while it lies there, some while it
goes on, one that ends it. What became of a fault is a line of `--record` as soon as it is known. Mounts of its own take
root and util-linux, a clock that jumps a C compiler: what is not there is told, and those kinds are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.fault_chain import Chain
from benchmarks.fault_runs import LAYOUTS, Told, drawn_faults, environment, overrides
from benchmarks.fault_world import has_clock, has_mounts, remove_library
from benchmarks.forked_runs import Forked, described, enter
from benchmarks.results_file import Figure, write_results
from nemo_bt.launching.local import end_with

_FAULTS_OF_A_CHAIN = 20
_STARTS_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--record", type=Path, default=Path(tempfile.gettempdir()) / "faults.jsonl")
    parser.add_argument("--no-results", action="store_true", help="write no file of figures")
    args = parser.parse_args()
    begun_s = time.monotonic()
    enter("benchmarks.faults")
    for there, kinds in ((has_mounts(), "full and read-only disks"), (has_clock(), "clock jumps")):
        print("" if there else f"left out: {kinds}", end="" if there else "\n", flush=True)
    args.record.write_text("")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(prefix="nemo_bt-faults-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            _disturb(folder, args)
        finally:
            lines = [json.loads(line) for line in args.record.read_text().splitlines()]
            took_s = time.monotonic() - begun_s
            figures = figures_of(lines, took_s)
            command = f"python -m benchmarks.faults --faults {args.faults} --seed {args.seed}"
            if not args.no_results:
                write_results("faults", f"cpu{os.cpu_count()}", command, figures)
            print(f"{len(lines)} told in {took_s:.0f} s", flush=True)
            remove_library()
    if any(line["wrong"] for line in lines):
        raise SystemExit("some runs went wrong: see the record")


def _disturb(folder: Path, args: argparse.Namespace) -> None:
    data = folder / "data"
    data.mkdir()
    os.chmod(folder, 0o755)
    _in_batches([lambda: _write_sets(data)], 1)
    chains = []
    left = args.faults
    while left > 0:
        layout = args.layouts[len(chains) % len(args.layouts)]
        faults = drawn_faults(min(left, _share(args)), layout, args.seed * 1000 + len(chains))
        chains.append((layout, faults))
        left -= len(faults)
    used = dict.fromkeys(layout for layout, _ in chains)
    _in_batches([lambda layout=layout: _undisturbed(folder, data, layout) for layout in used], args.jobs)
    _in_batches(
        [
            lambda number=number, layout=layout, faults=faults: Chain(
                folder / f"chain-{number}", layout, data, folder / f"undisturbed {layout}", _teller(args.record)
            ).run(faults)
            for number, (layout, faults) in enumerate(chains)
        ],
        args.jobs,
    )


def _share(args: argparse.Namespace) -> int:
    """Give the faults of a chain: so many, or fewer where not each layout would have one."""
    return max(1, min(_FAULTS_OF_A_CHAIN, -(-args.faults // len(args.layouts))))


def _write_sets(data: Path) -> None:
    from tests.support.preferences import write_sets

    write_sets(data)


def _undisturbed(folder: Path, data: Path, layout: str) -> None:
    log_dir = folder / f"undisturbed {layout}"
    keeps_all = "exp_manager.checkpoint_callback_params.save_last_n=0"
    argv = ["train", *overrides(data, log_dir, layout), keeps_all]
    output = folder / f"output {layout}"
    status = Forked(argv, environment(folder / f"cache {layout}"), output).wait(_STARTS_S)
    assert status == 0, output.read_text()


def _teller(record: Path) -> Callable[[Told], None]:
    def tell(told: Told) -> None:
        with record.open("a") as file:
            file.write(json.dumps(asdict(told)) + "\n")
        named = {True: "named", False: "NOT NAMED", None: "nobody left to name it"}[told.named]
        ended = f"status {told.status}, {named}{', TRACEBACK' * told.has_traceback}, {told.took_s:.0f} s"
        print(
            f"{told.layout}: {told.fault.kind}: {ended}{', WRONG: ' * bool(told.wrong)}{told.wrong or ''}", flush=True
        )

    return tell


def _in_batches(works: list[Callable[[], Any]], jobs: int) -> None:
    """Do each in a fork of its own, so many at once.

    Raises:
        SystemExit: one of them failed.
    """
    parent = os.getpid()
    running: set[int] = set()
    failed = 0
    waiting = list(works)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                work = waiting.pop(0)
                pid = os.fork()
                if pid == 0:
                    end_with(parent)
                    _do(work)
                running.add(pid)
            pid, status = os.wait()
            running.discard(pid)
            failed += status != 0
    finally:
        for pid in running if os.getpid() == parent else ():  # their runs end with them
            os.kill(pid, signal.SIGKILL)
    if failed:
        raise SystemExit(f"{failed} parts of the campaign failed")


def _do(work: Callable[[], Any]) -> None:
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:  # noqa: BLE001 - the other parts go on
        print(described(error), flush=True)
    finally:
        os._exit(status)


def figures_of(lines: list[dict[str, Any]], took_s: float) -> list[Figure]:
    """Count, for each kind: faults, those after which something was wrong, named ones, and tracebacks."""
    faults = [line for line in lines if line["fault"]["kind"] != "run to the end"]
    figures = []

    def add(name: str, value: float, unit: str = "count", target: float | None = None) -> None:
        figures.append(Figure(f"faults/{name}", value, unit, value, value, target))

    for kind, count in sorted(Counter(line["fault"]["kind"] for line in faults).items()):
        own = [line for line in faults if line["fault"]["kind"] == kind]
        add(f"{kind}/faults", count)
        add(f"{kind}/wrong", sum(bool(line["wrong"]) for line in own), target=0)
        add(f"{kind}/nameable", sum(line["named"] is not None for line in own))
        add(f"{kind}/named", sum(line["named"] is True for line in own))
        add(f"{kind}/tracebacks", sum(line["has_traceback"] for line in own), target=0)
    add("all/faults", len(faults))
    add("all/wrong", sum(bool(line["wrong"]) for line in lines), target=0)
    add("all/nameable", sum(line["named"] is not None for line in faults))
    add("all/named", sum(line["named"] is True for line in faults))
    add("all/tracebacks", sum(line["has_traceback"] for line in lines), target=0)
    add("all/seconds", round(took_s), "s")
    return figures


if __name__ == "__main__":
    main()

"""The runs that faults befall: their layouts, the faults that are drawn for each, and what is compared."""

from __future__ import annotations

import json
import os
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.fault_kinds import KINDS
from benchmarks.fault_place import Fault, num_ranks_of
from benchmarks.fault_world import has_clock, has_mounts
from nemo_bt.checkpoint.find import step_of
from nemo_bt.observability.metrics_log import read_metrics
from tests.support.faults import MOMENT_S, overrides_of
from tests.support.layouts import CP2, PP2, SP, TP2
from tests.support.runs import full_tensors

STEPS = 80
LAYOUTS: dict[str, list[str]] = {
    "one rank": ["trainer.devices=1"],
    "TP2 SP": [*TP2, *SP],
    "PP2": PP2,
    "DP2": ["model.optim.name=adam"],
    "DP2 distributed optimizer": [],
    "CP2": CP2,
}
_METRICS = ("step", "train/loss", "train/grad_norm", "train/lr", "val/held_out/loss")


@dataclass
class Told:
    """What became of a fault.

    Args:
        status: exit status of the life that it befell.
        named: whether a line named it; None where nobody was left who could.
        has_traceback: whether the user was shown a traceback in that life.
        wrong: what was not as it should be afterwards.
        took_s: of that life.
        said: what the user saw of it, where that was not as it should be.
    """

    layout: str
    fault: Fault
    status: int | None = None
    named: bool | None = None
    has_traceback: bool = False
    wrong: list[str] = field(default_factory=list)
    took_s: float = 0.0
    said: str = ""


def drawn_faults(number: int, layout: str, seed: int) -> list[Fault]:
    """Draw faults for a layout: all kinds that can befall it before one comes again, and everything else at random."""
    draw = random.Random(seed)
    there = {"mounts": has_mounts(), "clock": has_clock(), None: True}
    num_ranks = num_ranks_of(layout)
    possible = [name for name, kind in KINDS.items() if kind.fewest_ranks <= num_ranks and there[kind.needs]]
    kinds: list[str] = []
    while len(kinds) < number:
        kinds += draw.sample(possible, len(possible))
    return [
        Fault(
            kind,
            draw.choice([moment for moment in MOMENT_S if moment != "start-up" or KINDS[kind].at_start]),
            draw.randrange(num_ranks),
            draw.getrandbits(32),
        )
        for kind in kinds[:number]
    ]


def overrides(folder: Path, log_dir: Path, layout: str) -> list[str]:
    own = ["trainer.hang_timeout_s=10", "trainer.compare_replicas_every_n_steps=4"]
    own += ["exp_manager.checkpoint_callback_params.save_last_n=3"]
    return [*overrides_of(folder, log_dir, STEPS), *own, *LAYOUTS[layout]]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "NEMO_BT_CACHE": str(cache)}


def in_a_fork(compute: Callable[[], list[str]], file: Path) -> list[str]:
    """Compute in a process of its own: this one must start no thread, as it forks runs."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            file.write_text(json.dumps(compute()))
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    return [str(one) for one in json.loads(file.read_text())] if ended == 0 else ["the comparison failed"]


def unlike(checkpoint: Path, log_dir: Path, undisturbed: Path) -> list[str]:
    """Name what a run that was disturbed has otherwise than the other, up to a checkpoint: tensors, and logged rows."""
    expected_of = undisturbed / "checkpoints" / checkpoint.name
    found, expected = (full_tensors(path, prefix="") for path in (checkpoint, expected_of))
    names = sorted(found.keys() ^ expected.keys())
    names += [name for name in found.keys() & expected.keys() if not torch.equal(found[name], expected[name])]
    rows = [
        [{key: row[key] for key in _METRICS if key in row} for row in read_metrics(of)] for of in (log_dir, undisturbed)
    ]
    before = [[row for row in some if row["step"] < step_of(checkpoint)] for some in rows]
    return [f"{checkpoint.name}: {name}" for name in names] + ["rows of metrics.jsonl"] * (before[0] != before[1])

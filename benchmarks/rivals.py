"""Our trainer beside others. They are started, stepped and ended, all in turns or one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from benchmarks.turns import Trainer

OWN = "nemo_bt"
ALWAYS = (OWN, "trl8")
"""Trainers that stay whatever the first turn says."""
Commands: TypeAlias = dict[str, tuple[str, list[str]]]
"""Name of a trainer, ours first -> module and arguments."""


def in_turns(commands: Commands, num_ranks: int, turns: int, folder: Path, title: str) -> dict[str, Trainer]:
    """Run all at once, a step each. After the first turn only the fastest of the others goes on, beside ALWAYS."""
    trainers = {}
    for name, command in commands.items():
        trainers[name] = Trainer(*command, num_ranks, folder / f"{name}.log")
        trainers[name].ready()  # before the next one starts, as two first steps at once take far longer
    for turn in range(turns):
        seconds = {name: trainer.step() for name, trainer in trainers.items()}
        times = ", ".join(f"{name} {s:.2f} s" for name, s in seconds.items())
        print(f"{title}, turn {turn + 1}: {times}", flush=True)
        if turn == 0:
            fastest = min((s, name) for name, s in seconds.items() if name != OWN)[1]
            for name in set(trainers) - {*ALWAYS, fastest}:
                trainers.pop(name).stop()
    for trainer in trainers.values():
        trainer.end()
    return trainers


def one_by_one(commands: Commands, num_ranks: int, turns: int, folder: Path, title: str) -> dict[str, Trainer]:
    """Run each alone, as a GPU's memory does not hold all. A trainer of others that does not fit alone is left out."""
    trainers: dict[str, Trainer] = {}
    for name, command in commands.items():
        trainer = Trainer(*command, num_ranks, folder / f"{name}.log")
        try:
            trainer.ready()
            for _ in range(turns):
                trainer.step()
        except SystemExit as error:
            trainer.stop()
            if name == OWN:
                raise
            print(f"{title}: {name} left out: {error}", flush=True)
            continue
        if name == OWN:
            trainer.stop()  # it would save
        else:
            trainer.end()
        print(f"{title}: {name} {', '.join(f'{seconds:.2f}' for seconds in trainer.seconds)} s", flush=True)
        trainers[name] = trainer
    return trainers

"""A run that faults befall, life after life, compared after each with the run that nobody disturbed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fault_kinds import KINDS, Misbehaves
from benchmarks.fault_place import Fault, Place, PostponedError
from benchmarks.fault_runs import STEPS, Told, environment, in_a_fork, overrides, unlike
from benchmarks.fault_world import Clock, Disk
from benchmarks.forked_runs import Forked
from nemo_bt.checkpoint.find import step_of
from tests.support.faults import MOMENT_S, differences, moment_of, wait_until
from tests.support.runs import metrics

_LEFT = 36  # steps that a life needs for its faults: a run with fewer left is run to its end
_FOUND_WITHIN = 12  # steps, for a flipped bit
_IDLE = 6  # starts in which no fault found its moment
_BOUND_S = 150.0
_FINISH = Fault("run to the end", "step", 0, 0)
Waiting = dict[str, deque[Fault]]


class Chain:
    """A run of a layout under faults; where one goes wrong or ends, another follows it.

    Args:
        folder: is made.
        undisturbed: log directory of the run to compare with, which kept all its checkpoints.
        tell: gets each fault once it is known what became of it.
    """

    def __init__(self, folder: Path, layout: str, data: Path, undisturbed: Path, tell: Callable[[Told], None]) -> None:
        disk = Disk(folder / "disk")
        shutil.copytree(data, disk.folder, dirs_exist_ok=True)
        self.folder = folder
        self.place = Place(disk, disk.folder / "run-1", layout, folder / "output", Clock(folder / "clock"), set())
        self.flipped = folder / "flipped"
        self.layout = layout
        self.undisturbed = undisturbed
        self.tell = tell
        self.num_runs, self.num_told = 1, 0
        self.late: list[Fault] = []
        self.befallen: list[tuple[Told, str | None]] = []
        """Faults that are not told yet, and what names them."""

    step = property(lambda self: max(map(step_of, self.place.whole), default=0))
    """That of the newest whole checkpoint; 0 without one."""

    def run(self, faults: Sequence[Fault]) -> None:
        """Have all of them befall runs of this layout."""
        waiting: Waiting = {
            when: deque(fault for fault in faults if KINDS[fault.kind].when == when)
            for when in ("before", "start", "during", "ending", "silent")
        }
        idle = 0
        try:
            while any(waiting.values()):
                if self.step > STEPS - _LEFT:
                    self._finish()
                count, begun_s = self.num_told, time.monotonic()
                self._life(waiting)
                idle = idle + 1 if self.num_told == count else 0
                if idle == _IDLE:
                    self.befallen = [(Told(self.layout, _FINISH), None)]
                    self._tell(None, self.place.said(), [f"{idle} starts in a row came to nothing"], begun_s, True)
                is_at_rest = self.place.whole and not self.place.damaged and self.step <= STEPS - _LEFT
                if waiting["silent"] and is_at_rest:
                    self._silent_life(waiting["silent"].popleft())
            self._finish()
        finally:
            self.place.disk.remove()

    def _start(self, callbacks: Sequence[Any] = ()) -> Forked:
        self.place.hear_from_now()
        argv = ["train", *overrides(self.place.disk.folder, self.place.log_dir, self.layout)]
        env = environment(self.place.cache)
        return Forked(argv, env, self.place.output, self.place.clock.file, callbacks)

    def _life(self, waiting: Waiting) -> None:
        """Start the run once: faults while it lies there, while it goes on, and one that ends it."""
        lives_left = len(waiting["ending"]) or 1
        share = {when: -(-len(waiting[when]) // lives_left) for when in waiting}
        if self.place.whole:
            for _ in range(share["start"]):
                self._keep_from_starting(waiting["start"].popleft())
            for _ in range(share["before"]):
                self._befall(waiting["before"].popleft(), waiting["before"])
        begun_s = time.monotonic()
        step, newest = self.step, self.place.whole[-1:]
        ending = waiting["ending"].popleft() if waiting["ending"] else None
        inside = KINDS[ending.kind].inside if ending else None
        first_step = moment_of("step", self.place.log_dir)
        moment = moment_of(ending.moment, self.place.log_dir) if ending else first_step
        process = self._start([Misbehaves(inside[0], ending, self.flipped)] if ending and inside else [])
        if inside or not ending or ending.moment != "start-up":
            for _ in range(share["during"]):
                if wait_until(first_step, process):
                    self._befall(waiting["during"].popleft(), waiting["during"], process)
        if ending and inside:
            self.befallen.append((Told(self.layout, ending), inside[1].format(rank=ending.rank)))
        elif wait_until(moment, process):
            time.sleep(MOMENT_S[ending.moment] * 0.4 * ending.draw().random() if ending else 0)
            if ending:
                self._befall(ending, waiting["ending"], process)
            if not ending or not self.befallen or self.befallen[-1][0].fault is not ending:
                os.kill(process.pid, signal.SIGTERM)
        elif ending:  # the run ended before the moment came
            waiting["ending"].append(ending)
        wrong = self._wait(process)
        befell = [told for told, _ in self.befallen if told.fault is ending]
        if ending and befell and process.returncode == 0 and ending not in self.late:  # the run had nothing left to do
            self.late.append(ending)
            self.befallen = [one for one in self.befallen if one[0] is not befell[0]]
            waiting["ending"].append(ending)
        if self.place.disk.is_own:
            self.place.disk.mend()
        said = self.place.said()
        resumed = re.findall(r"resuming from (\S+)", said)
        if resumed and newest and resumed[-1] != str(newest[0]):
            wrong.append(f"resumed from {resumed[-1]} and not from {newest[0]}")
        self.place.damaged -= {path for path in self.place.damaged if f"{path} is damaged" in said and resumed}
        if self.step < step:
            wrong.append(f"the checkpoint of step {step} is lost")
        self._tell(process.returncode, said, wrong + self._compared(), begun_s, is_over=bool(resumed or not newest))

    def _befall(self, fault: Fault, again: deque[Fault], process: Forked | None = None) -> None:
        """Do it; where it cannot befall the run now, it comes again later."""
        act = KINDS[fault.kind].act
        assert act
        try:
            named = act(self.place, fault, *([process] if process else []))
            self.befallen.append((Told(self.layout, fault), named))
        except PostponedError:
            again.append(fault)

    def _keep_from_starting(self, fault: Fault) -> None:
        begun_s = time.monotonic()
        before, self.befallen = self.befallen, []
        act = KINDS[fault.kind].act
        assert act
        with act(self.place, fault) as named:
            process = self._start()
            wrong = self._wait(process)
            said = self.place.said()
        self.befallen = [(Told(self.layout, fault), named)]
        wrong += ["it started all the same"] * (process.returncode == 0)
        self._tell(process.returncode, said, wrong + self._compared(), begun_s, is_over=True)
        self.befallen = before

    def _silent_life(self, fault: Fault) -> None:
        """Flip a bit in a life of its own. If nothing finds it, what became of the run is thrown away."""
        begun_s = time.monotonic()
        inside = KINDS[fault.kind].inside
        assert inside
        aside = self.place.log_dir.with_suffix(".aside")
        shutil.copytree(self.place.log_dir, aside)
        process = self._start([Misbehaves(inside[0], fault, self.flipped)])
        until = self.step + _FOUND_WITHIN
        if wait_until(lambda: max(metrics(self.place.log_dir, "step"), default=0) >= until, process):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        wrong = self._wait(process)
        unlike_now = self._compared()
        is_found = "ranks differ in what they should hold alike" in self.place.said()
        is_nameable = is_found or bool(unlike_now and json.loads(self.flipped.read_text())["is_held_twice"])
        self.befallen.append((Told(self.layout, fault), inside[1].format(rank=fault.rank) if is_nameable else None))
        self._tell(process.returncode, self.place.said(), wrong + unlike_now * is_found, begun_s, True)
        if not is_found:
            shutil.rmtree(self.place.log_dir)
            shutil.copytree(aside, self.place.log_dir)
        shutil.rmtree(aside)

    def _wait(self, process: Forked) -> list[str]:
        """Wait for the end of a run and all its processes; say what did not end of itself."""
        family = process.family()
        wrong = []
        try:
            process.wait(_BOUND_S)
        except subprocess.TimeoutExpired:
            wrong.append(f"it did not end within {_BOUND_S:g} s")
        _, alive = psutil.wait_procs(family, timeout=0 if wrong else 10)
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        if alive and not wrong:
            wrong.append(f"processes were left: {alive}")
        process.wait(10)
        return wrong

    def _compared(self) -> list[str]:
        """Compare the newest checkpoint, and what was logged before it, with the run that nobody disturbed."""
        saved = {path.name for path in (self.undisturbed / "checkpoints").iterdir()}
        newest = [path for path in self.place.whole if path.name in saved][-1:]  # one that ended early has others
        if not newest:
            return []
        return in_a_fork(lambda: unlike(newest[0], self.place.log_dir, self.undisturbed), self.folder / "compared")

    def _tell(self, status: int | None, said: str, wrong: list[str], begun_s: float, is_over: bool) -> None:
        """Tell of the faults of a life; those that it did not live to see wait, unless it is over."""
        kept = []
        for told, named in self.befallen:
            found = re.search(named, said) is not None if named else None
            if not is_over and not found and not wrong and KINDS[told.fault.kind].when == "before":
                kept.append((told, named))
                continue
            told.status, told.named, told.wrong = status, found, wrong
            told.has_traceback = "Traceback (most recent call last)" in said
            told.took_s = time.monotonic() - begun_s
            if wrong or told.has_traceback or found is False:
                told.said = said[-6000:]
            self.tell(told)
            self.num_told += 1
        self.befallen = kept
        if wrong:
            self._new_run()

    def _finish(self) -> None:
        """Run to the end, compare all of it, and go on with another run."""
        begun_s = time.monotonic()
        process = self._start()
        wrong = self._wait(process)
        wrong += [f"status {process.returncode}"] * (process.returncode != 0)
        wrong = wrong or in_a_fork(
            lambda: differences(self.place.log_dir, self.undisturbed, STEPS), self.folder / "compared"
        )
        self.befallen.append((Told(self.layout, _FINISH), None))
        self._tell(process.returncode, self.place.said(), wrong, begun_s, is_over=True)
        if not wrong:
            self._new_run()

    def _new_run(self) -> None:
        """Go on with an empty log directory, which removes the old one."""
        shutil.rmtree(self.place.log_dir, ignore_errors=True)
        self.num_runs += 1
        self.place.log_dir = self.place.disk.folder / f"run-{self.num_runs}"
        self.place.damaged = set()

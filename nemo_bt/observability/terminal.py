"""What the user sees: a progress bar and short lines. Everything that libraries print goes to nemo.log instead.

Only rank 0 has a terminal; on the others every method but `error` does nothing. What is shown may quote data, names and
errors of others: characters that a terminal acts on are written out (`nemo_bt.errors.shown`), here and in nemo.log.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich import box, progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nemo_bt.errors import UserError, shown


class ShownStream(io.TextIOWrapper):
    """A text stream that writes out what a terminal would act on.

    Args:
        fd: a file descriptor.
        owns: whether it is closed with the stream.
    """

    def __init__(self, fd: int, owns: bool = False) -> None:
        file = io.BufferedWriter(io.FileIO(fd, "w", closefd=owns))
        super().__init__(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        """Write a text as it may be shown."""
        super().write(shown(text))
        return len(text)


def divert_output(log_file: Path) -> tuple[TextIO, TextIO]:
    """Send this process's stdout and stderr, C libraries' included, to the end of `log_file`; give those of before.

    Stdin is at its end from now on: a library that asks something would wait for an answer to a question nobody sees.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    stdout = os.fdopen(os.dup(1), "w", buffering=1)  # a bar's own sequences go there: `Terminal` looks at texts
    stderr = ShownStream(os.dup(2), owns=True)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for opened in (log, nothing):
        os.close(opened)
    sys.stdout, sys.stderr = ShownStream(1), ShownStream(2)
    return stdout, stderr


@contextmanager
def diverted_output(log_file: Path, shows: bool) -> Iterator[Terminal]:
    """Divert output as `divert_output` does while the block runs, in a program or notebook that goes on afterwards.

    Libraries that are imported in the block keep the streams of the process itself, not those of a notebook.

    Args:
        log_file: where what libraries print goes.
        shows: whether the terminal shows anything, as on rank 0.

    Yields:
        A terminal on what the user's stdout was before.
    """
    of_user = sys.stdout, sys.stderr
    stdin = os.dup(0)
    own = divert_output(log_file)
    stdout, stderr = (
        fd if stream is process else stream
        for fd, stream, process in zip(own, of_user, (sys.__stdout__, sys.__stderr__), strict=True)
    )
    terminal = Terminal(stdout if shows else None, stderr)
    try:
        yield terminal
    finally:
        terminal.stop()
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, before in ((0, stdin), (1, own[0].fileno()), (2, own[1].fileno())):
            os.dup2(before, fd)
        os.close(stdin)
        for stream in own:
            stream.close()
        sys.stdout, sys.stderr = of_user


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back what this process and its libraries print; show it if they fail, other than by a user's mistake."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(fd) for fd in (1, 2)]
    with tempfile.TemporaryFile() as held:
        try:
            for fd in (1, 2):
                os.dup2(held.fileno(), fd)
            yield
        except BaseException as error:
            if not isinstance(error, UserError | SystemExit | KeyboardInterrupt):
                sys.stdout.flush()
                sys.stderr.flush()
                held.seek(0)
                with ShownStream(before[1]) as of_user:
                    of_user.write(held.read().decode(errors="backslashreplace"))
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, own in zip((1, 2), before, strict=True):
                os.dup2(own, fd)
                os.close(own)


def _cell(text: str) -> str:
    return escape(shown(text))


_ANY_WIDTH = 10_000
"""Columns of a table at most: the terminal wraps one that is wider than itself, and nothing is cut."""


class Terminal:
    """A progress bar with lines above it; plain lines where stdout is not a terminal.

    Args:
        stream: rank 0's stdout; None on the other ranks, which show nothing.
        errors: where every rank's errors go.
    """

    def __init__(self, stream: TextIO | None, errors: TextIO = sys.stderr) -> None:
        self.errors = errors
        self.console = Console(file=stream, soft_wrap=True, highlight=False) if stream else None
        self._bar: progress.Progress | None = None

    def line(self, text: str) -> None:
        """Print one line."""
        if self.console:
            self.console.print(shown(text), markup=False)

    def error(self, text: str) -> None:
        """Write lines to the user's stderr, from any rank, in one piece."""
        self.errors.write(f"{shown(text)}\n")
        self.errors.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table as wide as it is; the first column is text, the others are numbers."""
        if self.console:
            table = Table(box=box.SIMPLE_HEAD)
            for number, column in enumerate(columns):
                table.add_column(_cell(column), justify="right" if number else "left")
            for row in rows:
                table.add_row(*map(_cell, row))
            Console(file=self.console.file, width=_ANY_WIDTH, highlight=False).print(table)

    def facts(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print names and values in two columns, as wide as they are."""
        if self.console:
            table = Table(box=box.SIMPLE, show_header=False)
            for row in rows:
                table.add_row(*map(_cell, row))
            Console(file=self.console.file, width=_ANY_WIDTH, highlight=False).print(table)

    @property
    def has_bar(self) -> bool:
        """Whether a bar is shown."""
        return self._bar is not None

    def start(self, done: int, total: int, unit: str = "step") -> None:
        """Show the bar, in the place of another one, if this is a real terminal."""
        self.stop()
        if self.console and self.console.is_terminal:
            columns = (
                progress.TextColumn(_cell(unit)),
                progress.MofNCompleteColumn(),
                progress.BarColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}"),
            )
            self._bar = progress.Progress(*columns, console=self.console, transient=True)
            self._bar.add_task("", total=total, completed=done)
            self._bar.start()

    def advance(self, step: int, note: str) -> None:
        """Move the bar to `step`; `note` stands behind it."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, description=_cell(note))

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None

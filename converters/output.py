"""What both converters share: an output that is whole or not there, dtypes, exit statuses."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeAlias

import torch

from nemo_bt.errors import UserError, shown
from nemo_bt.files import new_folder
from nemo_bt.observability.terminal import Terminal, divert_output, diverted_output

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

Parse: TypeAlias = Callable[[Sequence[str]], argparse.Namespace]


class ParityError(Exception):
    """The two models do not give the same rewards."""


@contextmanager
def written_whole(target: Path, inside: str = "") -> Iterator[Path]:
    """Open a folder to write to, which is renamed to `target` when the block ends without an error.

    Where `inside` names an entry of the folder, that alone becomes `target`. A failed comparison leaves the folder as
    `<target>.failed-check`; any other error removes it.

    Raises:
        UserError: `target` exists, or cannot be written.
    """
    if target.exists():
        raise UserError(f"--output {target} exists. Remove it or choose another name; nothing is written over.")
    try:
        with new_folder(target, inside) as unfinished:
            try:
                yield unfinished
            except ParityError as error:
                failed = target.with_name(f"{target.name}.failed-check")
                shutil.rmtree(failed, ignore_errors=True)
                raise ParityError(f"{error} What was written lies in {unfinished.rename(failed)}.") from error
    except OSError as error:
        raise UserError(f"--output {target} could not be written: {error}. Nothing of it was kept.") from error


def run(convert: Callable[[Terminal], None]) -> None:
    """Run a conversion with the libraries' output out of sight, and set the exit status.

    It is 0, 1 where the rewards differ, or 2 for a user's mistake.
    """
    with tempfile.NamedTemporaryFile(prefix="nemo_bt-convert-", suffix=".log", delete=False) as file:
        log = Path(file.name)
    stdout, stderr = divert_output(log)
    terminal = Terminal(stdout)
    try:
        convert(terminal)
    except (UserError, ParityError) as error:
        _say(stderr, f"error: {error}")
        log.unlink()
        sys.exit(2 if isinstance(error, UserError) else 1)
    except BaseException:
        _say(stderr, f"the libraries' output is in {log}")
        sys.stderr = stderr
        raise
    finally:
        terminal.stop()
    log.unlink()


def run_here(convert: Callable[[argparse.Namespace, Terminal], None], parse: Parse, argv: Sequence[str]) -> Path:
    """Run a conversion in a program that goes on afterwards, and give the output."""
    args = parse(argv)
    with tempfile.NamedTemporaryFile(suffix=".log") as log, diverted_output(Path(log.name), shows=True) as terminal:
        convert(args, terminal)
    output: Path = args.output
    return output


def _say(stderr: TextIO, text: str) -> None:
    stderr.write(f"{shown(text)}\n")
    stderr.flush()

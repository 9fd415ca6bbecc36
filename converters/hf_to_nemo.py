"""A Hugging Face folder, causal LM or sequence classifier -> a reward .nemo.

python -m converters.hf_to_nemo --input DIR --output X.nemo
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nemo_bt.errors import UserError
from nemo_bt.launching.script import made_once
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.convert import hf_head
from nemo_bt.pretrained.nemo_file import pack
from nemo_bt.pretrained.resolve import find_pretrained, open_weights, with_head_row

from .megatron import write_nemo
from .options import import_options
from .output import DTYPES, run, run_here, written_whole
from .parity import TOLERANCE, check_memory, check_parity
from .progress import summary
from .stale import as_it_is


def main() -> None:
    """Run the command line."""
    args = parse(sys.argv[1:])
    run(lambda terminal: convert(args, terminal))


@made_once
def hf_to_nemo(source: str | Path, output: str | Path, *options: str) -> Path:
    """Convert a Hugging Face folder or hub id to a reward .nemo, compare the rewards of the two, and give the output.

    Args:
        source: a causal language model, or a sequence classifier; of several labels with "--head-row=1".
        output: the .nemo to write.
        *options: options of the command line: "--pack", "--dtype=bf16", ...

    Raises:
        UserError: the input cannot be used, or the output not be written.
        ParityError: the rewards differ.
    """
    return run_here(convert, parse, ["--input", str(source), "--output", str(output), *options])


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the options of the command."""
    return import_options(argparse.ArgumentParser(prog="converters.hf_to_nemo", description=__doc__)).parse_args(argv)


def convert(args: argparse.Namespace, terminal: Terminal) -> None:
    """Convert, compare the rewards, and show what was done.

    Raises:
        UserError: the input cannot be used, or the output not be written.
        ParityError: the rewards differ.
    """
    pretrained = find_pretrained(args.input, key="--input")
    if pretrained.nemo_file:
        raise UserError(f"--input {args.input} is a .nemo already; expected a Hugging Face folder with config.json.")
    if args.head_row is not None:
        pretrained = with_head_row(pretrained, args.head_row)
    initial = as_it_is(open_weights(pretrained, args.seed, DTYPES.get(args.dtype)), terminal)
    terminal.line(initial.description)
    if not args.no_check:
        check_memory(initial.source)
    with written_whole(args.output, "packed" if args.pack else "nemo") as unfinished:
        nemo = unfinished / "nemo"
        write_nemo(nemo, initial.source, initial.pretrained.architecture, pretrained.tokenizer, terminal)
        check = "not compared (--no-check)"
        if not args.no_check:
            written = open_weights(find_pretrained(str(nemo)), args.seed)
            base_head = None if initial.has_head else hf_head(initial.source, initial.pretrained.architecture)
            difference = check_parity(pretrained.path, written, pretrained, base_head, DTYPES.get(args.dtype))
            check = f"largest difference {difference:.1e}, tolerance {TOLERANCE:.0e}"
        if args.pack:
            pack(nemo, unfinished / "packed")
    terminal.facts(summary(initial, args.output, check))


if __name__ == "__main__":
    main()

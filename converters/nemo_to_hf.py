"""A reward .nemo or a training checkpoint -> a Hugging Face folder for AutoModelForSequenceClassification.

python -m converters.nemo_to_hf --input X.nemo --output DIR
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.launching.script import made_once
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.attributes import check_names, combined, given_weights, with_attributes
from nemo_bt.pretrained.hf_config import HEAD_HIDDEN_SIZE
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource, find_pretrained, open_weights
from nemo_bt.pretrained.torch_dist import TorchDist
from nemo_bt.pretrained.two_layer_head import OWN_CLASS, OWN_FILE
from nemo_bt.training.checks import check_vocabulary

from .export_files import told_of_model, write_class, write_folder, write_tokenizer
from .hub import check_upload, push
from .options import export_options
from .output import DTYPES, run, run_here, written_whole
from .parity import TOLERANCE, check_memory, check_parity
from .peft_adapter import check_adapters, write_adapters
from .progress import summary
from .stale import as_it_is

_NO_CAUSAL_LM = (
    "--to-causal-lm: a reward model has no language-model head: it was removed when training started, so no causal "
    "language model can be written. Serve the sequence classifier, or generate with the base model."
)


def main() -> None:
    """Run the command line."""
    args = parse(sys.argv[1:])
    run(lambda terminal: convert(args, terminal))


@made_once
def nemo_to_hf(source: str | Path, output: str | Path, *options: str) -> Path:
    """Export a reward .nemo or a checkpoint for transformers, compare the rewards of the two, and give the output.

    Args:
        source: the .nemo.
        output: the folder to write, for AutoModelForSequenceClassification.
        *options: options of the command line: "--dtype=bf16", ...

    Raises:
        UserError: the input cannot be used, or the output not be written.
        ParityError: the rewards differ.
    """
    return run_here(convert, parse, ["--input", str(source), "--output", str(output), *options])


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the options of the command."""
    return export_options(argparse.ArgumentParser(prog="converters.nemo_to_hf", description=__doc__)).parse_args(argv)


def convert(args: argparse.Namespace, terminal: Terminal) -> None:
    """Convert, compare the rewards, show what was done, and upload where that is asked.

    Raises:
        UserError: the input cannot be used, or the output not be written.
        ParityError: the rewards differ.
    """
    initial = as_it_is(_open(args), terminal)
    terminal.line(initial.description)
    pretrained = initial.pretrained
    folder = args.tokenizer or pretrained.tokenizer
    tokenizer = load_tokenizer(str(folder), args.pad_token, ("--tokenizer", "--pad-token"))
    check_vocabulary(pretrained.architecture, tokenizer.pad_token_id, f"pad token '{tokenizer.pad_token}'")
    if args.adapters:
        _write_adapters(args, initial, tokenizer, folder, terminal)
    else:
        _write_model(args, initial, tokenizer, folder, terminal)
    if args.push_to_hub:
        terminal.line(f"uploaded to {push(args.output, args.push_to_hub, args.private)}")


def _write_model(
    args: argparse.Namespace, initial: InitialWeights, tokenizer: Any, folder: Path, terminal: Terminal
) -> None:
    with written_whole(args.output) as unfinished:
        name = args.push_to_hub or args.output.name
        write_folder(unfinished, initial, tokenizer, folder, name, int(args.max_shard_gb * 1e9), terminal)
        check = _compared(args, unfinished, initial, None)
    terminal.facts(summary(initial, args.output, check))


def _write_adapters(
    args: argparse.Namespace, initial: InitialWeights, tokenizer: Any, folder: Path, terminal: Terminal
) -> None:
    """Write the adapters alone, as PEFT's folder, with the tokenizer."""
    pretrained = initial.pretrained
    adapters = check_adapters(pretrained)
    assert pretrained.nemo_file
    trained = TorchDist(pretrained.nemo_file.open_weights, str(pretrained.path))
    with written_whole(args.output) as unfinished:
        write_adapters(unfinished, adapters, trained, pretrained.architecture)
        write_tokenizer(tokenizer, folder, unfinished)
        if pretrained.architecture.head_hidden_size:
            write_class(unfinished)
        check = _compared(args, unfinished, initial, find_pretrained(str(unfinished)))
    size = sum(info.num_bytes for info in trained.infos.values())
    rows = [("adapters of", adapters.base), ("rank", str(adapters.adapter_dim)), ("weights", f"{size / 1e6:,.1f} MB")]
    terminal.facts([*rows, ("rewards", check), ("written", str(args.output))])
    if pretrained.architecture.head_hidden_size:
        terminal.line(
            f"PEFT puts them on a model with such a head: {OWN_CLASS} of {OWN_FILE.name} with {HEAD_HIDDEN_SIZE}="
            f"{pretrained.architecture.head_hidden_size} and num_labels=1 in its configuration"
        )
    told = told_of_model(pretrained)
    if told:
        terminal.line(f"PEFT's folder has no place for {', '.join(told)}: say them where the adapters are used")


def _compared(args: argparse.Namespace, folder: Path, initial: InitialWeights, written: PretrainedSource | None) -> str:
    """Compare the rewards, unless that is not wanted, and say how far they are apart."""
    if args.no_check:
        return "not compared (--no-check)"
    return f"largest difference {check_parity(folder, initial, written):.1e}, tolerance {TOLERANCE:.0e}"


def _open(args: argparse.Namespace) -> InitialWeights:
    if args.to_causal_lm:
        raise UserError(_NO_CAUSAL_LM)
    if not 0 < args.max_shard_gb < math.inf:
        raise UserError(f"--max-shard-gb: expected more than 0, got {args.max_shard_gb}.")
    if args.adapters and args.dtype:
        raise UserError(
            "--adapters keeps their dtype: the weights of the base are not in the folder. Leave --dtype out."
        )
    if args.push_to_hub:
        check_upload(args.push_to_hub)
    pretrained = find_pretrained(args.input, key="--input")
    if pretrained.nemo_file is None:
        raise UserError(f"--input {args.input} is a Hugging Face folder already; expected a .nemo.")
    initial = open_weights(pretrained, head_seed=0, dtype=DTYPES.get(args.dtype))
    if not initial.has_head:
        raise UserError(
            f"--input {args.input} is a {initial.kind} without a reward head: there is no reward to export."
        )
    if not args.no_check:
        check_memory(initial.source)
    return _weighted(args, initial)


def _weighted(args: argparse.Namespace, initial: InitialWeights) -> InitialWeights:
    """Give a model with attributes the weights that are asked for, or make one reward of them."""
    own = initial.pretrained.architecture.attributes
    weights = given_weights(args.attribute_weights) if args.attribute_weights else own
    if args.combined:
        return combined(initial, weights)
    if not args.attribute_weights:
        return initial
    if not own:
        raise UserError(f"--attribute-weights: {args.input} has no attributes: its reward is one.")
    check_names(own, weights)
    return replace(initial, pretrained=with_attributes(initial.pretrained, {name: weights[name] for name in own}))


if __name__ == "__main__":
    main()

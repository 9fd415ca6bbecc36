"""Reward models of one architecture -> their mean, tensor by tensor: a reward .nemo, or a Hugging Face folder."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_bt.checkpoint.find import last_whole
from nemo_bt.data.tokenize.text_settings import TEXT_SETTINGS
from nemo_bt.data.tokenize.tokenizer import keep_tokenizer, load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.launching.script import made_once
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.head import described
from nemo_bt.pretrained.mean import AVERAGED_FROM, Mean, as_averaged, check_same_tensors
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource, find_pretrained
from nemo_bt.pretrained.trained_head import TRAINED_HEAD, digests_of
from nemo_bt.scoring.reward_statistics import KEY, statistics_of
from nemo_bt.training.checks import check_vocabulary

from .alike import check_same_architecture, check_same_tokenizer, common_texts, with_head
from .export_files import write_folder
from .megatron import write_nemo
from .options import average_options
from .output import DTYPES, run_here, written_whole
from .progress import summary
from .stale import as_it_is

_SHARD_BYTES = 10**9
_TOLERANCE = 1e-6
"""How far from 1 the sum of weights may be."""
_OF_ONE = (AVERAGED_FROM, KEY, TEXT_SETTINGS, TRAINED_HEAD)
"""What config.json says of one model, and not of a mean that it is a part of."""


@made_once
def average(
    models: Sequence[str | Path],
    output: str | Path,
    *options: str,
    weights: Sequence[float] = (),
    last: int | None = None,
) -> Path:
    """Write the mean of reward models of one architecture, and give the output.

    Args:
        models: .nemo, Hugging Face folders or hub ids; with `last`, the log directory of one run.
        output: a name that ends in .nemo, or a folder to write for AutoModelForSequenceClassification.
        *options: options of the command line: "--dtype=bf16", ...
        weights: one a model, positive, with a sum of 1; without them all are alike.
        last: average so many checkpoints, the newest whole ones.

    Raises:
        UserError: the models have no mean, cannot be used, or the output not be written.
    """
    argv = [*map(str, models), "--output", str(output), *options]
    argv += ["--weights", *map(str, weights)] if weights else []
    return run_here(convert, parse, argv + ([f"--last={last}"] if last is not None else []))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the options of the command."""
    return average_options(argparse.ArgumentParser(prog="nemo-bt average", description=__doc__)).parse_args(argv)


def convert(args: argparse.Namespace, terminal: Terminal) -> None:
    """Check that the models have a mean, write it, and show what was done.

    Adapters are merged with their base first: the mean of products B A is not the product of the means of B and of A.

    Raises:
        UserError: the models have no mean, cannot be used, or the output not be written.
    """
    names = _named(args, terminal)
    weights = _checked(args.weights, len(names))
    models = [find_pretrained(name, key="models") for name in names]
    check_same_architecture(models)
    opened = [as_it_is(with_head(model), terminal) for model in models]
    check_same_tensors({one.pretrained.given: one.source for one in opened}, DTYPES.get(args.dtype))
    options = [(f"the tokenizer of {model.given}", "--pad-token") for model in models]
    tokenizers = [
        load_tokenizer(str(model.tokenizer), args.pad_token, of) for model, of in zip(models, options, strict=True)
    ]
    check_same_tokenizer(models, tokenizers)
    pad = tokenizers[0].pad_token
    check_vocabulary(models[0].architecture, tokenizers[0].pad_token_id, f"pad token '{pad}'")
    texts, differing = common_texts(models, tokenizers)
    parts = list(zip(_short(models), weights or [1 / len(models)] * len(models), strict=True))
    mean = Mean([one.source for one in opened], weights, DTYPES.get(args.dtype))
    initial = _of_mean(mean, models[0], args.output, as_averaged(parts) | ({TEXT_SETTINGS: texts} if texts else {}))
    _tell(opened, differing, terminal)
    positions = [model.hf_config.get("max_position_embeddings") for model in models]
    if len({*positions}) > 1:
        terminal.line(f"max_position_embeddings are {', '.join(map(str, positions))}; the mean has those of the first")
    terminal.line(f"mean of {' + '.join(f'{weight:.6g} * {name}' for name, weight in parts)}")
    _write(args.output, initial, tokenizers[0], models[0].tokenizer, terminal)
    terminal.facts(summary(initial, args.output, "of the mean are not known: evaluate it beside its parts"))


def _named(args: argparse.Namespace, terminal: Terminal) -> list[str]:
    """Give the models that are averaged: those that are named, or the last checkpoints of a run."""
    if args.last is None:
        for name in args.models:
            if (Path(name) / "checkpoints").is_dir():
                raise UserError(f"{name} is the log directory of a run: name its checkpoints, or add --last N.")
        return list(args.models)
    if args.last < 1 or len(args.models) != 1:
        found = f"--last {args.last} and {', '.join(args.models)}"
        raise UserError(f"--last: expected a number from 1 and the log directory of one run, found {found}.")
    whole, damaged = last_whole(Path(args.models[0]), args.last)
    for one in damaged:
        terminal.line(f"{one}; it is passed over")
    return list(map(str, whole))


def _checked(weights: Sequence[float] | None, num_models: int) -> Sequence[float] | None:
    """Check the weights of so many models; None are the same for all."""
    if weights is None:
        return None
    given = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != num_models:
        raise UserError(f"--weights: expected {num_models} numbers, one a model, found {len(weights)}: {given}.")
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"--weights: expected numbers above 0, found {given}. Leave out a model that is not to count.")
    total = math.fsum(weights)
    if abs(total - 1) > _TOLERANCE:
        shares = " ".join(f"{weight / total:.9g}" for weight in weights)
        raise UserError(f"--weights: expected a sum of 1, found {total:g} of {given}. In the same ratio: {shares}.")
    return weights


def _short(models: Sequence[PretrainedSource]) -> list[str]:
    """Name models without the paths to them, where that tells them apart; hub ids stay."""
    names = [Path(one.given).name if Path(one.given).exists() else one.given for one in models]
    return names if len({*names}) == len(names) else [one.given for one in models]


def _of_mean(mean: Mean, first: PretrainedSource, output: Path, told: dict[str, Any]) -> InitialWeights:
    """Describe the mean as a model that nobody has trained, whose config.json is that of the first."""
    kept = {name: value for name, value in first.hf_config.items() if name not in _OF_ONE}
    pretrained = PretrainedSource(output, str(output), kept | told, first.tokenizer, None, is_reward_model=True)
    head = f"mean of {len(mean.sources)}, {described(mean)}"
    initial = InitialWeights(pretrained, mean, "mean of reward models", True, head)
    config = pretrained.hf_config | ({TRAINED_HEAD: digests_of(initial)} if TEXT_SETTINGS in told else {})
    return replace(initial, pretrained=replace(pretrained, hf_config=config))


def _tell(opened: Sequence[InitialWeights], differing: Sequence[str], terminal: Terminal) -> None:
    """Say what was found, and what does not carry over to the mean."""
    for one in opened:
        terminal.line(one.description)
    if any(one.pretrained.base for one in opened):
        terminal.line("adapters are merged with their base before the mean is taken, and the output is a whole model")
    for line in differing:
        terminal.line(line)
    if any(statistics_of(one.pretrained) for one in opened):
        terminal.line(
            f"{KEY} (mean and deviation of rewards on validation) do not carry over: the mean has none, and is not "
            "scored with --normalize"
        )


def _write(output: Path, initial: InitialWeights, tokenizer: Any, folder: Path, terminal: Terminal) -> None:
    is_nemo = output.suffix == ".nemo"
    with written_whole(output, "nemo" if is_nemo else "") as unfinished:
        if is_nemo:
            kept = unfinished / "tokenizer"  # with the pad token that was chosen here
            keep_tokenizer(tokenizer, folder, kept)
            write_nemo(unfinished / "nemo", initial.source, initial.pretrained.architecture, kept, terminal)
        else:
            write_folder(unfinished, initial, tokenizer, folder, output.name, _SHARD_BYTES, terminal)

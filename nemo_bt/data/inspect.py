"""nemo-bt data build, show, stats: what training would see, without training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_bt.batching.packing import group_pairs, plan_streams
from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.batching.shuffle import Ints
from nemo_bt.config.data import DataSettings
from nemo_bt.config.model import Settings
from nemo_bt.data.pairs.checks import side_name
from nemo_bt.data.store.load import as_the_model, check_overlap, load_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.files import beside
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.attributes import with_head
from nemo_bt.pretrained.resolve import HUB_FILES_BESIDE_WEIGHTS, find_pretrained, with_positions

_PERCENTILES = (50, 90, 95, 99, 100)
_PLANNED_STEPS = 8
_HIDDEN_SIZE = 4096
_PREFIX = "shared prefix"
_IN_A_STREAM = "pair in a stream"


def open_sets(settings: Settings, terminal: Terminal) -> tuple[dict[str, PairSet], Any]:
    """Open the data sets of a configuration, tokenised now if they have not been, and the tokenizer.

    Raises:
        UserError: there is no tokenizer, or data cannot be used.
    """
    model = settings.model
    if not model.tokenizer.type and not model.restore_from_path:
        raise UserError("model.tokenizer.type: expected a tokenizer folder, got null and no restore_from_path.")
    given = model.restore_from_path
    pretrained = find_pretrained(given, hub_files=HUB_FILES_BESIDE_WEIGHTS) if given else None
    folder = pretrained.tokenizer if pretrained and not model.tokenizer.type else Path(str(model.tokenizer.type))
    tokenizer = load_tokenizer(str(folder), model.tokenizer.pad_token)
    if pretrained:
        changed = with_positions(with_head(pretrained, model.reward_head), model.max_position_embeddings)
        settings = as_the_model(settings, changed.hf_config)
    return load_sets(settings, tokenizer, True, terminal), tokenizer


def without_limits(settings: Settings) -> Settings:
    """Give settings with which `open_sets` opens also what is bad or too long beyond the limits of model.data."""
    data = replace(settings.model.data, max_bad_fraction=1.0, max_drop_fraction=1.0)
    return replace(settings, model=replace(settings.model, data=data))


def check_limits(sets: Mapping[str, PairSet], data: DataSettings) -> None:
    """Check what `without_limits` has left out.

    Raises:
        UserError: a source is over the limits, or too much of a validation set is in the training data.
    """
    for name, pairs in sets.items():
        for source, drop_report in zip(pairs.sources, pairs.accounts, strict=True):
            drop_report.check(name if len(pairs.sources) == 1 else f"{name} {source.name}", data)
        if name != "train" and "train" in sets:
            check_overlap(sets["train"], pairs, data.max_bad_fraction)


def show(sets: Mapping[str, PairSet], tokenizer: Any, num_pairs: int, terminal: Terminal) -> None:
    """Print the first pairs of each set, as text made from their token ids; tokens that are scored are in brackets."""
    for name, pairs in sets.items():
        for pair in pairs.epoch.pairs_at(range(min(num_pairs, len(pairs.epoch)))).tolist():
            (group,) = pairs.groups([pair])
            (one,) = group.comparisons
            told = f"margin {one.margin:g} · weight {one.weight:g}"
            told += f" · preference {one.preference:g}" if one.preference != 1 else ""
            terminal.line(f"── {name} · {pairs.source_names[one.source]} · {pairs.where(pair)} · {told}")
            terminal.line(f"shared, {len(group.prefix)} tokens: {tokenizer.decode(group.prefix)}")
            for number, (position, score) in enumerate(zip(one.sides, one.scores, strict=True)):
                ids = group.continuations[position]
                scored = f"⟦{tokenizer.decode(ids[-1:])}⟧"
                label = side_name(number, len(one.sides))
                label += f", score {score:g}" if len(one.sides) != 2 and not math.isnan(score) else ""
                terminal.line(f"{label}, {len(ids)} tokens: {tokenizer.decode(ids[:-1])}{scored}")


def stats(sets: Mapping[str, PairSet], settings: Settings, picture: Path | None, terminal: Terminal) -> None:
    """Print counts, lengths, what is shared, and how streams fill; draw the lengths where a picture is wanted."""
    for name, pairs in sets.items():
        terminal.line(f"\n{name}: {len(pairs.epoch):,} pairs an epoch")
        rows = []
        for source, drop_report in zip(pairs.sources, pairs.accounts, strict=True):
            terminal.line(f"  {source.name}: format {source.format}, {len(source.files)} files, {source.folder}")
            rows.append(
                [source.name, f"{drop_report.num_rows:,}", f"{drop_report.num_pairs:,}", f"{drop_report.num_kept:,}"]
            )
            for reason, count in drop_report.counted():
                rows.append([f"  {reason}", "", "", f"{count:,}"])
        terminal.table(("source", "rows", "pairs", "kept, or dropped"), rows)
        lengths = lengths_of(pairs)
        columns = ("tokens", "mean", *(f"p{p}" if p < 100 else "max" for p in _PERCENTILES))
        table = [
            [part, f"{values.mean():,.0f}", *(f"{v:,.0f}" for v in np.percentile(values, _PERCENTILES))]
            for part, values in lengths.items()
        ]
        terminal.table(columns, table)
        whole = sum(values.sum() for part, values in lengths.items() if part not in (_PREFIX, _IN_A_STREAM))
        stream = lengths[_IN_A_STREAM].sum()
        terminal.line(f"  shared prefixes save {1 - stream / whole:.1%} of the tokens of all responses")
        filled, num_streams = packing_estimate(pairs, settings)
        terminal.line(
            f"  a step of {settings.model.global_batch_size} pairs fills {num_streams:.1f} streams of "
            f"{settings.model.data.tokens_per_micro_batch:,} tokens to {filled:.1%}"
        )
    if picture:
        draw_lengths(sets, picture)
        terminal.line(f"lengths drawn in {picture}")


def lengths_of(pairs: PairSet) -> dict[str, Ints]:
    """Count the tokens of every entry of an epoch: what its sides share, each side whole, all in a stream."""
    entries = pairs.epoch.all_pairs()
    prefix = pairs.column("prefix_tokens", entries).astype(np.int64)
    num_sides = pairs.column("num_sides", entries)
    tokens_EK = pairs.sides("tokens", entries, 0).astype(np.int64)
    if (num_sides == 2).all():
        sides = {"chosen": prefix + tokens_EK[:, 0], "rejected": prefix + tokens_EK[:, 1]}
    else:
        is_there_EK = np.arange(tokens_EK.shape[1]) < num_sides[:, None]
        sides = {"a response": (prefix[:, None] + tokens_EK)[is_there_EK]}
    return {_PREFIX: prefix} | sides | {_IN_A_STREAM: prefix + tokens_EK.sum(1)}


def packing_estimate(pairs: PairSet, settings: Settings) -> tuple[float, float]:
    """Estimate how full the streams of the first steps are, as a fraction, and how many a step has."""
    model = settings.model
    budget = model.data.tokens_per_micro_batch
    size = min(model.global_batch_size, len(pairs.epoch))
    num_tokens = 0
    num_streams = 0
    num_steps = min(_PLANNED_STEPS, max(1, len(pairs.epoch) // size))
    for step in range(num_steps):
        chosen = pairs_of_step(settings.trainer.seed, step, size, pairs.epoch)
        _, sizes = group_pairs(pairs.parts(chosen), budget, _HIDDEN_SIZE)
        num_streams += len(plan_streams(sizes, budget, 1)[0])
        num_tokens += int(sizes.tokens.sum())
    return num_tokens / (num_streams * budget), num_streams / num_steps


def draw_lengths(sets: Mapping[str, PairSet], picture: Path) -> None:
    """Draw histograms of `lengths_of`, one panel a set, as PNG.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), 1, squeeze=False)[:, 0]
    for panel, (name, pairs) in zip(panels, sets.items(), strict=True):
        lengths = lengths_of(pairs)
        longest = max(int(np.percentile(values, 99.5)) for values in lengths.values())
        for part, values in lengths.items():
            panel.hist(values, bins=60, range=(0, longest), histtype="step", linewidth=1.5, label=part)
        panel.set(
            title=f"{name}: {len(pairs.epoch):,} pairs", xlabel="tokens (up to the 99.5th percentile)", ylabel="pairs"
        )
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    try:
        with beside(picture) as unfinished:
            figure.savefig(unfinished, dpi=120, format="png")
    except OSError as error:
        raise UserError(f"--picture {picture}: expected a file that can be written, got {error}.") from error

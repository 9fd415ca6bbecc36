"""Settings -> the data sets of a run, tokenised, checked and mixed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from nemo_bt.batching.shuffle import Ints
from nemo_bt.config.data import SourceSettings
from nemo_bt.config.length import length_limit
from nemo_bt.config.loss import WITH_TIES
from nemo_bt.config.model import Settings
from nemo_bt.data.read.drop_report import NUM_EXAMPLES, DropReport
from nemo_bt.data.store.cache import CachedSource, cache_folder, open_source
from nemo_bt.data.store.mixture import entries_of, make_epoch, num_wanted
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.store.signal import check_signal
from nemo_bt.data.store.spec import EncodingSpec
from nemo_bt.data.tokenize.chat_template import Renderer, load_renderer
from nemo_bt.data.tokenize.templates import told
from nemo_bt.data.tokenize.tokenizer import AUTO, digest_of_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.hf_config import HfConfig, head_settings, positions_of

_BLOCK = 1 << 20
_LOW = np.uint64((1 << 20) - 1)


def load_sets(
    settings: Settings,
    tokenizer: Any,
    with_validation: bool,
    terminal: Terminal,
    with_train: bool = True,
) -> dict[str, PairSet]:
    """Load the training set, under "train", and the validation sets.

    Args:
        settings: settings that `as_the_model` has completed.
        tokenizer: gets the chat template that the settings name.
        terminal: gets a line for each source.

    Raises:
        UserError: data cannot be read, or is bad beyond the limits of model.data.
    """
    data = settings.model.data
    if settings.model.tokenizer.pad_token == AUTO:
        terminal.line(f"pad token: {tokenizer.pad_token} (model.tokenizer.pad_token=auto)")
    renderer = load_renderer(tokenizer, data)
    digest = digest_of_tokenizer(tokenizer)
    wanted = ({"train": data.train} if with_train else {}) | (data.validation if with_validation else {})
    has_input_template = any(source.input_template for sources in wanted.values() for source in sources)
    terminal.line(told(data.chat_template, renderer.chat, has_input_template))
    sets: dict[str, PairSet] = {}
    for name, sources in wanted.items():
        cached = []
        for source in sources:
            spec = encoding_spec(settings, source, renderer)
            num_workers = data.num_workers or len(os.sched_getaffinity(0))
            setting = f"model.data.{'train' if name == 'train' else f'validation.{name}'}"
            cached.append(open_source(spec, setting, digest, cache_folder(data.cache_dir), num_workers, terminal))
        sets[name] = mix(name, sources, cached, settings, terminal)
        if name != "train" and with_train:
            overlap = check_overlap(sets["train"], sets[name], settings.model.data.max_bad_fraction)
            if overlap:
                terminal.line(f"{name}: {overlap:,} pairs have an answer that is also in the training data")
    return sets


def as_the_model(settings: Settings, hf_config: HfConfig) -> Settings:
    """Give the settings with what the model decides: its positions, where it has a limit, and its head."""
    head = head_settings(hf_config)
    positions = positions_of(hf_config)
    return replace(settings, model=replace(settings.model, max_position_embeddings=positions, reward_head=head))


def encoding_spec(settings: Settings, source: SourceSettings, renderer: Renderer) -> EncodingSpec:
    """Say how the rows of a source become tokens."""
    model = settings.model
    limit = length_limit(model.encoder_seq_length, model.max_position_embeddings)
    weights = model.reward_head.weight_of
    unknown = ", ".join(source.attribute_keys.keys() - weights.keys())
    if unknown:
        known = ", ".join(weights) or "none"
        raise UserError(
            f"model.data.attribute_keys: {unknown}: expected names of model.reward_head.attributes, which are {known}."
        )
    keys = {name: source.attribute_keys.get(name, name) for name in weights}
    source = replace(source, attribute_keys=keys)
    if model.loss.kind in WITH_TIES:
        source = replace(source, pairs=replace(source.pairs, keep_ties=True))
    read = (model.data.length_policy, model.loss.takes, tuple(keys.values()), tuple(weights.values()))
    return EncodingSpec(renderer, source, source.format, limit, *read)


def mix(
    name: str, sources: Sequence[SourceSettings], cached: Sequence[CachedSource], settings: Settings, terminal: Terminal
) -> PairSet:
    """Mix a data set of its sources, in the amounts that are asked for; pairs longer than a stream are left out.

    Raises:
        UserError: a source is over the limits, or has nothing left.
    """
    data = settings.model.data
    accounts = []
    entries = []
    wanted = []
    first = 0
    check_signal(name, cached, settings, terminal)
    for source, part in zip(sources, cached, strict=True):
        drop_report, over = _over_budget(part, data.tokens_per_micro_batch)
        called = name if len(sources) == 1 else f"{name} {part.name}"
        drop_report.check(called, data)
        entries.append(entries_of(first, part.columns["prompt"], over))
        kept = len(entries[-1])
        wanted.append(num_wanted(source, kept))
        if wanted[-1] < 1:
            raise UserError(
                f"{called}: fraction={source.fraction}, repeat={source.repeat} of {kept} pairs are none. Raise "
                "it, set count, or take the source out."
            )
        amount = f"; {wanted[-1]:,} an epoch" if wanted[-1] != kept else ""
        terminal.line(drop_report.describe(called) + amount)
        accounts.append(drop_report)
        first += len(part)
    return PairSet(name, list(cached), accounts, make_epoch(entries, wanted, settings.trainer.seed))


def _over_budget(part: CachedSource, budget_tokens: int) -> tuple[DropReport, Ints]:
    """Find the pairs that are longer than a stream, ascending, [D], and count them."""
    drop_report = deepcopy(part.drop_report)
    found = [np.empty(0, dtype=np.int64)]
    if part.most_tokens > budget_tokens:
        for start in range(0, len(part), _BLOCK):
            total = part.tokens_of_pairs(start, start + _BLOCK)
            over = np.flatnonzero(total > budget_tokens)
            for pair in over[:NUM_EXAMPLES].tolist():
                drop_report.drop("budget", part.where(start + pair), f"{total[pair]} tokens")
            if len(over) > NUM_EXAMPLES:
                drop_report.drop("budget", times=len(over) - NUM_EXAMPLES)
            found.append(over + start)
    over = np.concatenate(found)
    drop_report.num_kept -= len(over)
    drop_report.num_longer_chosen -= int(part.columns["is_longer"][over].sum())
    return drop_report, over


def check_overlap(train: PairSet, validation: PairSet, max_fraction: float) -> int:
    """Count validation pairs of which a side, prompt and response, is also a side of a training pair.

    Raises:
        UserError: they are more than `max_fraction` of the set's pairs.
    """
    used = np.unique(validation.epoch.all_pairs())
    hashes = validation.sides("hash", used, 0)
    is_there = validation.column("num_sides", used)[:, None] > np.arange(hashes.shape[1])
    found = (np.isin(hashes, _in_training(train, np.unique(hashes))) & is_there).any(axis=1)
    count = int(found.sum())
    if count > max_fraction * len(used):
        first = "\n  ".join(validation.where(pair) for pair in used[found][:3].tolist())
        raise UserError(
            f"validation {validation.name}: {count} of {len(used)} pairs have an answer that is also in the training "
            f"data. Expected at most model.data.max_bad_fraction={max_fraction:g} of them. Take them out of one of the "
            f"two, or raise the limit. The first:\n  {first}"
        )
    return count


def _in_training(train: PairSet, hash_H: Any) -> Any:
    """Give those of some hashes, ascending ones, that sides of the training set have. It is read in blocks."""
    has_low = np.zeros(1 << 20, dtype=bool)  # most sides are told apart by the last bits alone
    has_low[hash_H & _LOW] = True
    found = [hash_H[:0]]
    for source in train.sources:
        for start in range(0, len(source.sides["hash"]), _BLOCK):
            block = source.sides["hash"][start : start + _BLOCK]
            found.append(np.intersect1d(hash_H, block[has_low[block & _LOW]]))
    return np.unique(np.concatenate(found))

"""Validation pairs as conversations. They are read from their rows again, as the cache has only their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.model import Settings
from nemo_bt.data.formats.custom import IDS
from nemo_bt.data.formats.responses import Side, Text, prompt_of, response_of
from nemo_bt.data.read.drop_report import DropReport
from nemo_bt.data.read.files import find_files
from nemo_bt.data.store.build import chunks_of
from nemo_bt.data.store.encode import usable_pairs
from nemo_bt.data.store.load import encoding_spec
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.tokenize.chat_template import Renderer
from nemo_bt.errors import UserError

Sides: TypeAlias = "tuple[Side, Side]"
"""The chosen and the rejected side, each a whole conversation."""


def conversations_of(
    pairs: PairSet, sources: Sequence[SourceSettings], settings: Settings, renderer: Renderer
) -> dict[int, Sides]:
    """Read the pairs of a set's epoch, by their numbers in the set.

    Raises:
        UserError: a file changed since it was tokenised.
    """
    found: dict[int, Sides] = {}
    wanted = set(pairs.epoch.all_pairs().tolist())
    number = 0
    for source, cached in zip(sources, pairs.sources, strict=True):
        before = number
        if cached.format == IDS:
            number += len(cached)
            found |= {one: _decoded(pairs, one, renderer) for one in range(before, number) if one in wanted}
            continue
        spec, chunks, _ = chunks_of(find_files(source, source.name), encoding_spec(settings, source, renderer))
        for _, _, chunk in chunks:
            for group, kept, _ in usable_pairs(chunk, spec, DropReport()):
                for pair in kept:
                    if number in wanted:
                        found[number] = group.sides[pair.chosen], group.sides[pair.rejected]
                    number += 1
        if number - before != len(cached):
            raise UserError(
                f"{source.name}: found {number - before} pairs, expected the {len(cached)} of a moment ago. Its files "
                "changed meanwhile: start again."
            )
    return found


def _decoded(pairs: PairSet, number: int, renderer: Renderer) -> Sides:
    """Decode a pair that came as token ids; nobody knows where its responses start."""
    (group,) = pairs.groups([number])
    whole = [np.concatenate([group.prefix, group.continuations[place]]) for place in group.comparisons[0].sides]
    chosen, rejected = (Text("", renderer.tokenizer.decode(ids, skip_special_tokens=True)) for ids in whole)
    return chosen, rejected


def prompt_only(side: Side) -> Side | None:
    """Give a conversation without its response; None where nobody knows where that starts."""
    if isinstance(side, Text):
        return Text(side.prompt, "") if side.prompt else None
    return replace(side, messages=[*side.messages[:-1], {**side.messages[-1], "content": ""}])


def response_only(side: Side) -> Side | None:
    """Give a response to a user who has said nothing; None where nobody knows where the response starts."""
    if isinstance(side, Text):
        return Text("", side.response) if side.prompt else None
    return replace(side, messages=[{"role": "user", "content": ""}, side.messages[-1]])


def as_texts(side: Side) -> list[tuple[str, str]]:
    """List who says what, the response last, for people to read."""
    prompt = prompt_of(side)
    if isinstance(prompt, str):
        before = [("prompt", prompt)]
    else:
        before = [(turn["role"], turn["content"] or "") for turn in prompt.messages]
    return [*(said for said in before if said[1]), ("response", response_of(side))]

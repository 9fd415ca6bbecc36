"""Whether models have a mean: the same architecture, a reward head each, the same tokenizer; and what they are told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import torch

from nemo_bt.data.tokenize.text_settings import text_settings_of
from nemo_bt.data.tokenize.tokenizer import digest_of_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.hf_config import ATTRIBUTES, HEAD_HIDDEN_SIZE
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource, open_weights

_SHOWN = 12
"""Digits of a digest in a message."""
_COMPUTES_NO_REWARD = ("hf_config", "completed", "family", "init_std", "rotary_frequencies")
"""Fields that models of one architecture need not share, and those that `first_difference` compares otherwise."""


def check_same_architecture(models: Sequence[PretrainedSource]) -> None:
    """Check that models compute the same.

    Raises:
        UserError: one of them does not; the first field that differs is named.
    """
    for model in models[1:]:
        different = first_difference(models[0].architecture, model.architecture)
        if different:
            name, expected, found = different
            raise UserError(
                f"{model.given}: {name}: expected {expected} as in {models[0].given}, found {found}. Only models of "
                "one architecture, best from one start, have a mean."
            )


def first_difference(one: Architecture, other: Architecture) -> tuple[str, Any, Any] | None:
    """Name the first field in which two models would compute something else, with its two values."""
    named = {"model_type": (one.hf_config["model_type"], other.hf_config["model_type"])}
    fields = {name: (value, vars(other)[name]) for name, value in vars(one).items() if name not in _COMPUTES_NO_REWARD}
    rows = tuple(", ".join(f"{name}={w:g}" for name, w in at.attributes.items()) or "none" for at in (one, other))
    heads = {ATTRIBUTES: rows, HEAD_HIDDEN_SIZE: (one.head_hidden_size or "none", other.head_hidden_size or "none")}
    for name, (mine, theirs) in (named | fields | heads).items():
        if mine != theirs:
            return name, mine, theirs
    frequencies = (torch.cat(model.rotary_frequencies).tolist() for model in (one, other))
    for number, (mine, theirs) in enumerate(itertools.zip_longest(*frequencies)):
        if mine != theirs:
            return f"rotary_frequencies[{number}]", mine, theirs
    return None


def with_head(model: PretrainedSource) -> InitialWeights:
    """Open the weights of a reward model.

    Raises:
        UserError: it has no reward head, or its tensors are not those of its architecture.
    """
    opened = open_weights(model, head_seed=0)
    if not opened.has_head:
        raise UserError(
            f"{model.given}: expected a reward model, found a base model without a reward head. A new head is random: "
            "train it first."
        )
    return opened


def check_same_tokenizer(models: Sequence[PretrainedSource], tokenizers: Sequence[Any]) -> None:
    """Check that the tokenizers of models make the same ids of every text.

    Raises:
        UserError: one does not; a special token that differs is named, else the digests.
    """
    digests = [digest_of_tokenizer(tokenizer) for tokenizer in tokenizers]
    for model, tokenizer, digest in zip(models, tokenizers, digests, strict=True):
        if digest == digests[0]:
            continue
        own, other = (one.special_tokens_map for one in (tokenizers[0], tokenizer))
        names = [name for name in (own | other) if own.get(name) != other.get(name)]
        of_first, found = (own.get(names[0]), other.get(names[0])) if names else (digests[0][:_SHOWN], digest[:_SHOWN])
        what = names[0] if names else "digest"
        raise UserError(
            f"{model.given}: {what} of the tokenizer: expected {of_first} as in {models[0].given}, found {found}. The "
            "same text would be other ids: only models with one tokenizer have a mean."
        )


def common_texts(models: Sequence[PretrainedSource], tokenizers: Sequence[Any]) -> tuple[dict[str, Any], list[str]]:
    """Give the text settings that all models have, and say which of them, or of the chat templates, differ."""
    settings = [text_settings_of(model) for model in models]
    names = list(dict.fromkeys(name for one in settings for name in one))
    kept = {
        name: settings[0][name] for name in names if all(one.get(name) == settings[0].get(name) for one in settings)
    }
    told = []
    for name in (name for name in names if name not in kept):
        values = ", ".join(
            f"{json.dumps(one.get(name))} in {at.given}" for at, one in zip(models, settings, strict=True)
        )
        told.append(f"model.data.{name} is {values}: the mean keeps none of them, so name it where the mean scores")
    templates = [tokenizer.chat_template for tokenizer in tokenizers]
    others = [at.given for at, template in zip(models, templates, strict=True) if template != templates[0]]
    if others:
        told.append(f"the chat template of {', '.join(others)} is another one: the mean has that of {models[0].given}")
    return kept, told

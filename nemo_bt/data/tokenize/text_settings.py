"""How a model was given texts in its training, which it keeps: scoring does the same where it is told nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, cast

from pydantic import ValidationError

from nemo_bt.config.data import SourceSettings, TextSettings
from nemo_bt.data.tokenize.templates import PLAIN, told
from nemo_bt.errors import UserError
from nemo_bt.pretrained.nemo_metadata import FACTS, read_facts
from nemo_bt.pretrained.resolve import PretrainedSource

TEXT_SETTINGS = "text_settings"
"""Key in the config.json of an export."""
_IN_CONFIG = f"{TEXT_SETTINGS} of config.json"
_BETWEEN = ("join", "input_template")
"""Of each source, and two ways to one thing: who sets one of them sets both."""
_OF_TEMPLATE = ("chat_template", "chat_template_kwargs", "chat_template_date")
"""Of the whole run; who sets the first sets all."""


def text_settings_of(pretrained: PretrainedSource) -> dict[str, Any]:
    """Give the model.data.* that a model was trained with and that change its tokens, where they are not the default.

    Those of a source count where all sources of the training have the same (`differing_of` names the others). A chat
    template that was chosen is in the tokenizer; that none was used is not.

    Raises:
        UserError: they are not as nemo_bt writes them.
    """
    try:
        data = _trained_data(pretrained)
        found = dict(pretrained.hf_config.get(TEXT_SETTINGS) or {}) if data is None else _of_training(data)
        if found.get("chat_template") not in (None, PLAIN):
            raise ValueError(f"expected chat_template {PLAIN}, got {found['chat_template']!r}")
        given = TextSettings(**{name: value for name, value in found.items() if value is not None})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        where = f"context/{FACTS}" if pretrained.nemo_file else _IN_CONFIG
        raise UserError(f"{pretrained.given}: {where} is not as nemo_bt writes it ({what}). Mend it there.") from error
    return _changed(given)


def differing_of(pretrained: PretrainedSource) -> list[str]:
    """Name the settings in which the sources of a model's training differed, so that none of them is the model's."""
    return [name for name, values in _by_source(_trained_data(pretrained) or {}).items() if len(values) > 1]


def _trained_data(pretrained: PretrainedSource) -> dict[str, Any] | None:
    """Give model.data of a training; None where nobody has trained yet, or a very old version did."""
    facts = read_facts(pretrained.nemo_file.context) if pretrained.nemo_file else {}
    data = facts["settings"]["model"]["data"] if "settings" in facts else None
    return data if data and all(isinstance(source, dict) for source in data["train"]) else None


def _by_source(data: dict[str, Any]) -> dict[str, set[Any]]:
    return {name: {source.get(name) for source in data.get("train", [])} for name in _BETWEEN}


def _of_training(data: dict[str, Any]) -> dict[str, Any]:
    found = {name: data.get(name) for name in _OF_TEMPLATE}
    found["chat_template"] = PLAIN if found["chat_template"] == PLAIN else None
    return found | {name: values.pop() if len(values) == 1 else None for name, values in _by_source(data).items()}


def as_trained(data: TextSettings, pretrained: PretrainedSource) -> TextSettings:
    """Fill in what the training had where `data` leaves it open."""
    own = _changed(data)
    taken = set(own) | (set(_BETWEEN) if own.keys() & set(_BETWEEN) else set())
    taken |= set(_OF_TEMPLATE) if "chat_template" in own else set()
    trained = text_settings_of(pretrained)
    return replace(data, **{name: value for name, value in trained.items() if name not in taken})


def described(data: TextSettings, pretrained: PretrainedSource, is_chat: bool, trained_on: bool = False) -> list[str]:
    """Say how texts are given: the template, then what is as the training had it, and what it had in several ways.

    Args:
        trained_on: whether the weights are those of a later training, of which nothing is known
            (nemo_bt.pretrained.trained_head).
    """
    trained = text_settings_of(pretrained)
    same = _written({name: value for name, value in trained.items() if getattr(data, name) == value})
    several = ", ".join(f"model.data.{name}" for name in differing_of(pretrained) if getattr(data, name) is None)
    lines = [told(data.chat_template, is_chat, data.input_template is not None)]
    own = _trained_data(pretrained) is not None
    lines += [f"as in training{'' if own else f' ({_IN_CONFIG})'}: {same}"] if same else []
    if same and trained_on:
        lines.append(
            f"{pretrained.given} was trained on since {_IN_CONFIG} was written, maybe with texts given otherwise; "
            "model.data.join='' and model.data.chat_template=default take it back"
        )
    return lines + ([f"the sources of the training differ in {several}; nothing is set here"] if several else [])


def unlike(data: TextSettings, sources: Iterable[SourceSettings], pretrained: PretrainedSource) -> list[str]:
    """Say in a line what a model was trained with and a run that starts from it does not have."""
    own = asdict(cast(Any, data))
    given = [{name: getattr(source, name) for name in _BETWEEN} for source in sources]
    missing = {
        name: value
        for name, value in text_settings_of(pretrained).items()
        if (any(source[name] != value for source in given) if name in _BETWEEN else own[name] != value)
    }
    return [f"{pretrained.given} was trained with {_written(missing)}, this run is not"] if missing else []


def _written(values: dict[str, Any]) -> str:
    return ", ".join(f"model.data.{name}={json.dumps(value)}" for name, value in values.items())


def _changed(data: TextSettings) -> dict[str, Any]:
    plain = asdict(cast(Any, TextSettings()))
    values = asdict(cast(Any, data))
    return {name: values[name] for name in (*_BETWEEN, *_OF_TEMPLATE) if values[name] != plain[name]}

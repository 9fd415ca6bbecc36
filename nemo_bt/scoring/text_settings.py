"""How a model was given texts in its training, which it keeps: scoring does the same where it is told nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any, cast

from pydantic import ValidationError

from nemo_bt.config.data import TextSettings
from nemo_bt.data.tokenize.templates import PLAIN
from nemo_bt.errors import UserError
from nemo_bt.pretrained.nemo_metadata import read_facts
from nemo_bt.pretrained.resolve import PretrainedSource

TEXT_SETTINGS = "text_settings"
"""Key in the config.json of an export."""
_BETWEEN = ("join", "input_template")
"""Of each source, and two ways to one thing: who sets one of them sets both."""
_OF_TEMPLATE = ("chat_template", "chat_template_kwargs", "chat_template_date")


def text_settings_of(pretrained: PretrainedSource) -> dict[str, Any]:
    """Give the model.data.* that a model was trained with and that change its tokens, where they are not the default.

    Those of a source count where all sources of the training have the same. A chat template that was chosen is in the
    tokenizer; that none was used is not.

    Raises:
        UserError: they are not as nemo_bt writes them.
    """
    try:
        facts = read_facts(pretrained.nemo_file.context) if pretrained.nemo_file else {}
        trained = _of_training(facts["settings"]["model"]["data"]) if facts else None
        found = dict(pretrained.hf_config.get(TEXT_SETTINGS) or {}) if trained is None else trained
        if found.get("chat_template") not in (None, PLAIN):
            raise ValueError(f"expected chat_template {PLAIN}, got {found['chat_template']!r}")
        given = TextSettings(**{name: value for name, value in found.items() if value is not None})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise UserError(
            f"{pretrained.given}: its {TEXT_SETTINGS} are not as nemo_bt writes them ({what}). Remove them."
        ) from error
    return _changed(given)


def _of_training(data: dict[str, Any]) -> dict[str, Any]:
    found = {name: data.get(name) for name in _OF_TEMPLATE}
    found["chat_template"] = PLAIN if found["chat_template"] == PLAIN else None
    for name in _BETWEEN:
        values = {source.get(name) for source in data["train"]}
        found[name] = values.pop() if len(values) == 1 else None
    return found


def as_trained(data: TextSettings, pretrained: PretrainedSource) -> TextSettings:
    """Fill in what the training had where `data` leaves it open."""
    own = _changed(data)
    taken = set(own) | (set(_BETWEEN) if own.keys() & set(_BETWEEN) else set())
    trained = text_settings_of(pretrained)
    return replace(data, **{name: value for name, value in trained.items() if name not in taken})


def described(data: TextSettings, pretrained: PretrainedSource) -> list[str]:
    """Say in a line which settings are as the training had them; no line where it had only defaults."""
    trained = text_settings_of(pretrained)
    same = {name: value for name, value in trained.items() if getattr(data, name) == value}
    values = ", ".join(f"model.data.{name}={json.dumps(value)}" for name, value in same.items())
    return [f"as in training: {values}"] if same else []


def _changed(data: TextSettings) -> dict[str, Any]:
    plain = asdict(cast(Any, TextSettings()))
    values = asdict(cast(Any, data))
    return {name: values[name] for name in (*_BETWEEN, *_OF_TEMPLATE) if values[name] != plain[name]}

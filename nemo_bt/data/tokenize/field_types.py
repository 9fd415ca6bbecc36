"""Types of the fields of a tokenizer's JSON files, looked at before transformers has them.

transformers takes most of them as they come, and fails at the first text, or counts wrongly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_bt.errors import UserError
from nemo_bt.foreign.fields import FLAG, TEXT, Field, check_fields, list_of
from nemo_bt.foreign.files import read_json


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))


def _is_named_template(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("name", "template"))


_TOKEN = Field("a text, or a mapping with its content", _is_token)
_TOKENS = Field("tokens", lambda value: isinstance(value, list | dict) and all(map(_is_token, _values(value))))
_FIELDS: dict[str, Field] = {
    **dict.fromkeys(
        ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"), _TOKEN
    ),
    **dict.fromkeys(("additional_special_tokens", "extra_special_tokens"), _TOKENS),
    "added_tokens_decoder": Field(
        "a mapping of ids to tokens",
        lambda value: isinstance(value, dict) and all(key.isdecimal() and _is_added(one) for key, one in value.items()),
    ),
    "tokenizer_class": TEXT,
    "chat_template": Field(
        "a text, or a list of templates with names",
        lambda value: isinstance(value, str) or (isinstance(value, list) and all(map(_is_named_template, value))),
    ),
    "model_max_length": Field(
        "a number of tokens from 1", lambda value: type(value) in (int, float) and 1 <= value < math.inf
    ),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces"), FLAG),
    **dict.fromkeys(("padding_side", "truncation_side"), Field("left or right", lambda v: v in ("left", "right"))),
    "model_input_names": list_of(str, "texts"),
}
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
_MEND = "Take the file of the tokenizer as it was published."
_MOST_TOKENS = 2**24
_LONG_NUMBER = re.compile(rb"[:,]\s*\d{8,}")


def _values(value: Any) -> list[Any]:
    return list(value.values() if isinstance(value, dict) else value)


def _is_added(value: Any) -> bool:
    flags = [value.get(name, False) for name in _FLAGS] if isinstance(value, dict) else []
    return isinstance(value, dict) and isinstance(value.get("content"), str) and {*map(type, flags)} <= {bool}


def tokenizer_config(folder: Path, name: str = "tokenizer_config.json") -> dict[str, Any]:
    """Read a JSON file of a tokenizer whose fields have their types; none has none.

    Raises:
        UserError: it is something else.
    """
    file = folder / name
    if not file.is_file():
        return {}
    found = read_json(file, "the settings of a tokenizer", _MEND)
    check_fields(found, _FIELDS, str(file), _MEND)
    return found


def check_ids(file: Path) -> None:
    """Check the ids of the tokens of a JSON file: tokenizers reserves memory for all ids up to the largest.

    Raises:
        UserError: one is so large that no vocabulary has it.
    """
    if not _LONG_NUMBER.search(file.read_bytes()):
        return
    for token, number in _ids(read_json(file, "a tokenizer", _MEND)):
        if isinstance(number, int) and number >= _MOST_TOKENS:
            raise UserError(f"{file}: expected ids below {_MOST_TOKENS:,}, got {number:,} of {token[:100]!r}. {_MEND}")


def _ids(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    model = found.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else found
    yield from vocabulary.items() if isinstance(vocabulary, dict) else ()
    added = found.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict):
            yield str(token.get("content")), token.get("id")

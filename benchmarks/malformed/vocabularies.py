"""Malformed tokenizers: fields of their files, and chat templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.malformed.cases import VALUES, Case, Inputs, changed, copied, of_file, untouched

_CONFIG_FIELDS = (
    *("added_tokens_decoder", "bos_token", "eos_token", "pad_token", "unk_token", "clean_up_tokenization_spaces"),
    *("extra_special_tokens", "additional_special_tokens", "model_max_length", "tokenizer_class", "chat_template"),
    *("add_bos_token", "padding_side", "model_input_names"),
)
_MAP_FIELDS = ("bos_token", "pad_token", "additional_special_tokens")
_PLACES: tuple[tuple[Any, ...], ...] = (
    *(("version",), ("truncation",), ("padding",), ("added_tokens",), ("normalizer",), ("pre_tokenizer",)),
    *(("post_processor",), ("decoder",), ("model",), ("model", "type"), ("model", "vocab"), ("model", "merges")),
    *(("model", "dropout"), ("model", "unk_token"), ("added_tokens", 0), ("added_tokens", 0, "id")),
    *(("added_tokens", 0, "content"), ("model", "vocab", "!"), ("model", "merges", 0)),
)
_DECODER_FIELDS = ("0", "content", "special", "lstrip")
TEMPLATES: dict[str, str] = {
    "loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "loops quietly": "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
    "doubles itself": "{% set n = namespace(s='abcd') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "multiplies": "{{ 'a' * 10000000000 }}",
    "multiplies in pieces": "{% for i in range(90000) %}{{ 'a' * 1000000 }}{% endfor %}",
    "fills": "{{ '%10000000000d' % 1 }}",
    "centers": "{{ 'a' | center(10000000000) }}",
    "formats": "{{ '{:>10000000000}'.format(1) }}",
    "joins": "{{ (['a' * 100000] * 100000) | join }}",
    "powers": "{{ 9 ** 9 ** 9 }}",
    "powers of a number": "{% set n = 7 ** 9999999 %}{{ n }}",
    "calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "calls itself twice": "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
    "a list that grows": "{% set l = [1] %}{% for i in range(99999) %}{% set l = l + l %}{% endfor %}",
    "a range": "{{ range(10000000000) | list }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
    "raises": "{{ raise_exception('no \\u001b[2J') }}",
    "divides by zero": "{{ 1 / 0 }}",
    "an attribute": "{{ messages.a.b.c }}",
    "a type": "{{ messages + 1 }}",
    "an index": "{{ messages[99] }}",
    "a name": "{{ a.b }}",
    "an underscore": "{{ messages.__class__.__mro__ }}",
    "a global": "{{ cycler.__init__.__globals__ }}",
    "an import": "{% import 'a' as b %}",
    "an include": "{% include '/etc/passwd' %}",
    "an extends": "{% extends 'a' %}",
    "no end": "{% for a in messages %}",
    "no name": "{{",
    "a filter": "{{ messages | nothing }}",
    "deep": "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}",
    "deep blocks": "{% if 1 %}" * 500 + "a" + "{% endif %}" * 500,
    "long": "{{ 'a' }}" * 200_000,
    "nothing": " ",
    "NULs": "\x00{{ messages }}",
    "a date": "{{ strftime_now('%Y' * 1000000) }}",
    "json": "{{ messages | tojson(indent=100000000) }}",
    "a generator": "{{ messages | map('a') | list }}",
    "breaks": "{% for a in range(3) %}{% break %}{% endfor %}",
    "a batch": "{{ messages | batch(100000000, 'x') | list }}",
    "a slice": "{{ messages | slice(100000000) | list }}",
    "indents": "{{ ('a\\n' * 100000) | indent(100000) }}",
    "wraps": "{{ ('a ' * 1000000) | wordwrap(1) }}",
    "urlizes": "{{ ('http://a.b ' * 100000) | urlize }}",
    "replaces": "{{ ('a' * 100000) | replace('a', 'a' * 100000) }}",
}  # fmt: skip
"""Chat templates that fail, or do not end, or fill the memory."""


def cases(inputs: Inputs) -> Iterator[Case]:
    """Give about 600 of them."""
    source = inputs.tokenizer
    yield untouched(source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    for what, value in VALUES.items():
        for field in _CONFIG_FIELDS:
            full = config | {field: config.get(field)}
            yield Case(f"config {field} {what}", _written(source, "tokenizer_config.json", full, (field,), value))
        for field in _DECODER_FIELDS:
            place = ("added_tokens_decoder", *(("0",) if field == "0" else ("0", field)))
            yield Case(f"config {place} {what}", _written(source, "tokenizer_config.json", config, place, value))
        special = json.loads((source / "special_tokens_map.json").read_text()) | {"additional_special_tokens": []}
        for field in _MAP_FIELDS:
            yield Case(f"map {field} {what}", _written(source, "special_tokens_map.json", special, (field,), value))
        document = json.loads((source / "tokenizer.json").read_text())
        for place in _PLACES:
            yield Case(f"tokenizer {place} {what}", _written(source, "tokenizer.json", document, place, value))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        for what, write in of_file(source, name):
            yield Case(what, write)
    for what, text in TEMPLATES.items():
        yield Case(f"template {what}", copied(source, _template(text)))
    for what, change in _FILES.items():
        yield Case(what, copied(source, change))


def _template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def _written(source: Path, name: str, document: Any, place: tuple[Any, ...], value: Any) -> Callable[[Path], Path]:
    return copied(source, lambda folder: (folder / name).write_text(json.dumps(changed(document, place, value))))


_FILES: dict[str, Callable[[Path], object]] = {
    "added_tokens.json a list": lambda folder: (folder / "added_tokens.json").write_text("[1]"),
    "added_tokens.json of texts": lambda folder: (folder / "added_tokens.json").write_text('{"a": "b"}'),
    "a pattern that backtracks": lambda folder: _pattern(folder, "(a|a)*b|(.*)*x"),
    "a pattern that is none": lambda folder: _pattern(folder, "(("),
    "a pattern of nothing": lambda folder: _pattern(folder, ""),
}


def _pattern(folder: Path, text: str) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    splitting = {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(document | {"pre_tokenizer": splitting}))

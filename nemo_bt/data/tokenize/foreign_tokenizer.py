"""What of a foreign tokenizer folder goes to transformers: its own files, fields that are known, and a plain class.

transformers acts on more: a field may name files elsewhere, a class may load others and run a folder's code. It is
handed a temporary folder of links to the tokenizer's files, whose settings are written anew with known fields.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo_bt.data.tokenize.field_types import check_ids, tokenizer_config
from nemo_bt.errors import UserError
from nemo_bt.foreign.files import check_inside, read_json
from nemo_bt.foreign.put_off import put_off

CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
_CLASSES_OF_5 = ("PythonBackend", "SentencePieceBackend", "MistralCommonBackend")
"""Beside TokenizersBackend, which is PreTrainedTokenizerFast here."""
_SOURCES = ("vocab_file", "merges_file", "tokenizer_file", "tokenizer_object", "gguf_file")
"""Fields by which transformers would read files of other places, beside those of the class."""
_VERSIONED = re.compile(r"tokenizer(\.\d+)*\.json")
_OF_FILES = re.compile(r"file|spm|ckpt|vocab$|kwargs$|^args$|^self$|tokenizer$")
"""Arguments of classes that are no settings."""
_OF_ANY = {
    *("tokenizer_class", "added_tokens_decoder", "extra_special_tokens", "chat_template", "model_input_names"),
    *("model_max_length", "max_len", "padding_side", "truncation_side", "clean_up_tokenization_spaces"),
    *("split_special_tokens", "add_prefix_space", "add_bos_token", "add_eos_token", "fast_tokenizer_files"),
}
"""Fields that every class takes, beside its special tokens. Source: transformers/tokenization_utils_base.py."""
_PICKLED = ("transfo-xl", "TransfoXLTokenizer")
"""Source: transformers/models/deprecated/transfo_xl/tokenization_transfo_xl.py; no other tokenizer's files are."""
_FILES = (
    *("tokenizer.json", CONFIG, _SPECIAL_TOKENS, "added_tokens.json", "tekken.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.tiktoken", "tokenizer.model", "spiece.model", "*.bpe.model"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
)
_CACHE = "TIKTOKEN_CACHE_DIR"


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files of a Hugging Face folder that make its tokenizer and chat templates.

    Raises:
        UserError: one is a link that leaves the folder.
    """
    files = sorted(file for pattern in _FILES for file in folder.glob(pattern) if file.is_file())
    for file in files:
        check_inside(file, folder)
    return files


def open_tokenizer(folder: Path) -> Any:
    """Load a tokenizer as transformers does, also one that transformers 5 has saved; nothing of the folder runs.

    Raises:
        UserError: it names files elsewhere, a class that is not there, or one that does not load as all do.
    """
    config = as_both_read(tokenizer_config(folder))
    special = tokenizer_config(folder, _SPECIAL_TOKENS)
    beside = read_json(folder / "config.json", "a configuration") if (folder / "config.json").is_file() else {}
    kind = _class_of(config, beside, folder)
    kinds = [one for one in (kind, getattr(kind, "slow_tokenizer_class", None)) if one]
    names = {name for one in kinds for name in (one.vocab_files_names or {})}
    for name in (*_SOURCES, *sorted(names - {*_SOURCES})):
        if config.get(name) is not None:
            raise UserError(
                f"{folder / CONFIG}: {name}={str(config[name])[:100]!r}: expected a tokenizer of the files beside it. "
                f"Take {name} out."
            )
    config = _known(config, kinds) | {"tokenizer_class": kind.__name__}
    versioned = config.get("fast_tokenizer_files") or []
    if not isinstance(versioned, list) or not all(_VERSIONED.fullmatch(str(name)) for name in versioned):
        raise UserError(f"{folder / CONFIG}: fast_tokenizer_files: expected names such as tokenizer.4.0.0.json.")
    files = {folder / name for one in kinds for name in (one.vocab_files_names or {}).values()}
    files |= {*tokenizer_files(folder), *(folder / str(name) for name in versioned)}
    written: dict[str, dict[str, Any]] = {
        CONFIG: config,
        _SPECIAL_TOKENS: {name: value for name, value in special.items() if name in kind.SPECIAL_TOKENS_ATTRIBUTES},
        "config.json": {name: beside[name] for name in ("model_type", "transformers_version") if name in beside},
    }
    for file in files:
        if file.suffix == ".json" and file.is_file() and file.name not in written:
            check_ids(file)
    with tempfile.TemporaryDirectory(prefix="nemo_bt-tokenizer-") as held:
        _fill(Path(held), folder, files, {name: value for name, value in written.items() if value})
        with _without_cache():
            tokenizer = kind.from_pretrained(held, local_files_only=True, trust_remote_code=False)
        for values in (vars(tokenizer), tokenizer.init_kwargs):  # they name its files, which are saved from there
            at_home = {n: v.replace(held, str(folder), 1) for n, v in values.items() if str(v).startswith(held)}
            values.update(at_home)
    return tokenizer


def _class_of(config: dict[str, Any], beside: dict[str, Any], folder: Path) -> Any:
    """Find the class as AutoTokenizer does, by the tokenizer's settings or those of the model beside it."""
    with put_off():
        from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    family, name = beside.get("model_type"), config.get("tokenizer_class") or beside.get("tokenizer_class")
    if family in _PICKLED or str(name).removesuffix("Fast") in _PICKLED:
        raise UserError(f"{folder}: its files are pickles, which can run code: a tokenizer of TransfoXL is not read.")
    if name is None and family is None:
        raise UserError(f"{folder} holds no tokenizer that loads: neither {CONFIG} nor config.json names its class.")
    slow, fast = (f"{name}", f"{name}Fast") if name else TOKENIZER_MAPPING_NAMES.get(str(family), (None, None))
    for one in (tokenizer_class_from_name(tried) for tried in (fast, slow) if tried):
        if one is not None and all(map(_loads_as_all_do, (one, getattr(one, "slow_tokenizer_class", None) or one))):
            return one
    if "auto_map" in config:
        raise UserError(f"{folder} holds no tokenizer that loads: {name} is code of its own, which is not run.")
    raise _no_class(name or fast or slow or f"none for {family}", folder)


def _loads_as_all_do(kind: Any) -> bool:
    """Tell whether a class is made of files of one folder by transformers' common code; a composite loads others."""
    from transformers import PreTrainedTokenizerBase as Base

    names = ("from_pretrained", "_from_pretrained")
    is_one = isinstance(kind, type) and issubclass(kind, Base)
    return is_one and all(getattr(kind, name).__func__ is getattr(Base, name).__func__ for name in names)


def _no_class(name: str, folder: Path) -> UserError:
    import transformers

    of_5 = ", which transformers 5 has" if name in _CLASSES_OF_5 else ""
    has_fast = (folder / "tokenizer.json").is_file()
    mend = "Set it to PreTrainedTokenizerFast: its tokenizer.json says all that it does"
    return UserError(
        f"{folder / CONFIG}: tokenizer_class: expected a class of transformers {transformers.__version__}, got "
        f"{name}{of_5}. {mend if has_fast else 'Save the tokenizer with tokenizer.json beside it'}."
    )


def _known(config: dict[str, Any], kinds: list[Any]) -> dict[str, Any]:
    """Give the fields that the classes have arguments for, files left out, and what SentencePiece takes as numbers."""
    known = {*_OF_ANY, *kinds[0].SPECIAL_TOKENS_ATTRIBUTES}
    for one in (base for kind in kinds for base in kind.__mro__ if "__init__" in vars(base)):
        known |= {name for name in inspect.signature(one.__init__).parameters if not _OF_FILES.search(name)}
    found = {name: value for name, value in config.items() if name in known}
    of_model = config.get("sp_model_kwargs")
    if isinstance(of_model, dict):
        found["sp_model_kwargs"] = {key: value for key, value in of_model.items() if isinstance(value, int | float)}
    return found


def _fill(held: Path, folder: Path, files: set[Path], written: dict[str, dict[str, Any]]) -> None:
    for file in sorted(files - {folder / name for name in (CONFIG, _SPECIAL_TOKENS, "config.json")}):
        if file.is_file():
            check_inside(file, folder)
            link = held / file.relative_to(folder)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(file.resolve())
    for name, content in written.items():
        (held / name).write_text(json.dumps(content))


@contextmanager
def _without_cache() -> Iterator[None]:
    """Keep tiktoken from its folder of files by the hash of their path, which may be of another time or user."""
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CACHE]
        else:
            os.environ[_CACHE] = before


def as_both_read(config: dict[str, Any]) -> dict[str, Any]:
    """Give tokenizer_config.json as both versions of transformers read it."""
    read = dict(config)
    if read.get("tokenizer_class") == "TokenizersBackend":
        read["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(read.get("extra_special_tokens"), list):  # version 5's name for additional_special_tokens
        read["additional_special_tokens"] = read.pop("extra_special_tokens")
    return read

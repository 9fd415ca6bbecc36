"""A Hugging Face tokenizer folder, checked for what ruins reward models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from nemo_bt.data.rows import Side, is_text
from nemo_bt.errors import UserError
from nemo_bt.stream import Ids

_CONFIG = "tokenizer_config.json"
_FILES = (
    *("tokenizer.json", _CONFIG, "special_tokens_map.json", "added_tokens.json", "tekken.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.tiktoken", "tokenizer.model", "spiece.model", "*.bpe.model"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
)


_OPTIONS = ("model.tokenizer.type", "model.tokenizer.pad_token")


def load_tokenizer(folder: str, pad_token: str | None, options: tuple[str, str] = _OPTIONS) -> Any:
    """The tokenizer in `folder`, with a pad token of its own.

    transformers finds the scored token as the last one that is not padding, so a model whose pad is also its
    end-of-sequence is scored one token early after export. Source:
    transformers/modeling_layers.py, GenericForSequenceClassification.forward.

    Args:
        folder: holds tokenizer.json or a slow tokenizer's files.
        pad_token: a token of the vocabulary to use as padding; None keeps the tokenizer's own.
        options: what the user sets the two with, for messages.

    Raises:
        UserError: no tokenizer there, no pad token, or a pad token that is the eos token or not in the vocabulary.
    """
    from transformers import AutoTokenizer  # 3 s of import that a wrong path should not cost

    if not Path(folder).is_dir():
        raise UserError(f"{options[0]}: {folder} is not a folder. Give a Hugging Face tokenizer folder.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{options[0]}: {folder} holds no tokenizer that loads: {error}") from error
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise UserError(
                f"{options[1]}: '{pad_token}' is not in the vocabulary of {folder}. "
                "Choose a token that is there and that no text contains."
            )
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        found = "no pad token" if tokenizer.pad_token is None else f"pad = eos = '{tokenizer.eos_token}'"
        raise UserError(
            f"{folder}: expected a pad token of its own, found {found}. The exported model would be scored at the "
            f"wrong token. Set {options[1]} to a reserved token of the vocabulary."
        )
    return tokenizer


def keep_tokenizer(tokenizer: Any, folder: Path, target: Path) -> None:
    """Put a tokenizer into `target`: its own files byte for byte, or saved anew where its pad token was chosen here.

    Args:
        tokenizer: from `load_tokenizer`.
        folder: that it was loaded from.
        target: written to; may exist.
    """
    own = json.loads((folder / _CONFIG).read_text()).get("pad_token") if (folder / _CONFIG).exists() else None
    if (own["content"] if isinstance(own, dict) else own) != tokenizer.pad_token:
        tokenizer.save_pretrained(target)
        return
    target.mkdir(exist_ok=True)
    for file in tokenizer_files(folder):
        (target / file.relative_to(folder)).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target / file.relative_to(folder))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a Hugging Face folder that make its tokenizer and chat templates."""
    return sorted(file for pattern in _FILES for file in folder.glob(pattern) if file.is_file())


def tokenize(tokenizer: Any, sides: Sequence[Side]) -> list[Ids]:
    """Token ids of whole conversations.

    Messages are rendered with the tokenizer's chat template, which brings its own special tokens. A text gets the
    tokenizer's special tokens, and eos at its end: both sides of a pair end in the same token.

    Args:
        tokenizer: from `load_tokenizer`.
        sides: all text or all messages.

    Returns:
        One int32 array each.

    Raises:
        UserError: messages, but the tokenizer has no chat template, or one that refuses them.
    """
    if not sides:
        return []
    if is_text(sides[0]):
        ids = tokenizer(list(sides))["input_ids"]
        eos = tokenizer.eos_token_id
        return [np.array(i if eos is None or i[-1:] == [eos] else [*i, eos], dtype=np.int32) for i in ids]
    if tokenizer.chat_template is None:
        raise UserError(
            f"{tokenizer.name_or_path}: no chat template, which message lists need. "
            "Add chat_template to its tokenizer_config.json, or give columns of plain text."
        )
    try:
        texts = [tokenizer.apply_chat_template(side, tokenize=False) for side in sides]
    except TemplateError as error:
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template refuses a conversation of the data ({error}). Mend the "
            "conversation or the template; the template says which order of roles it expects."
        ) from error
    return [np.array(i, dtype=np.int32) for i in tokenizer(texts, add_special_tokens=False)["input_ids"]]

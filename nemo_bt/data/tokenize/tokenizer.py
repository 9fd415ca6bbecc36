"""A Hugging Face tokenizer folder, checked for what ruins reward models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from nemo_bt.errors import UserError

_CONFIG = "tokenizer_config.json"
_FILES = (
    *("tokenizer.json", _CONFIG, "special_tokens_map.json", "added_tokens.json", "tekken.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.tiktoken", "tokenizer.model", "spiece.model", "*.bpe.model"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
)


_OPTIONS = ("model.tokenizer.type", "model.tokenizer.pad_token")


def load_tokenizer(folder: str, pad_token: str | None, options: tuple[str, str] = _OPTIONS) -> Any:
    """Load the tokenizer in `folder`, with a pad token of its own.

    transformers finds the scored token as the last one that is not padding, so a model whose pad is also its
    end-of-sequence is scored one token early after export. Source:
    transformers/modeling_layers.py, GenericForSequenceClassification.forward.

    Args:
        folder: holds tokenizer.json or a slow tokenizer's files.
        pad_token: a token of the vocabulary to use as padding; None keeps the tokenizer's own.
        options: what the user sets the two with, for messages.

    Raises:
        UserError: there is no tokenizer, no pad token, or one that is the eos token or not in the vocabulary.
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


def keep_tokenizer(tokenizer: Any, folder: Path, target: Path, new_template: bool = False) -> None:
    """Put a tokenizer into `target`: its own files byte for byte, or saved anew where a part of it was chosen here.

    Args:
        folder: where it was loaded from.
        target: may exist.
        new_template: whether it was given another chat template; another pad token is seen by itself.
    """
    own = json.loads((folder / _CONFIG).read_text()).get("pad_token") if (folder / _CONFIG).exists() else None
    if new_template or (own["content"] if isinstance(own, dict) else own) != tokenizer.pad_token:
        tokenizer.save_pretrained(target)
        return
    target.mkdir(exist_ok=True)
    for file in tokenizer_files(folder):
        (target / file.relative_to(folder)).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target / file.relative_to(folder))


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files of a Hugging Face folder that make its tokenizer and chat templates."""
    return sorted(file for pattern in _FILES for file in folder.glob(pattern) if file.is_file())

"""A Hugging Face tokenizer folder, checked for what ruins reward models."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from nemo_bt.data.tokenize.foreign_tokenizer import CONFIG, as_both_read, open_tokenizer, tokenizer_files
from nemo_bt.errors import UserError
from nemo_bt.foreign.files import check_folder, reading

AUTO = "auto"
"""Pad token that asks for the first unused one."""
_SHOWN = 8
_KEPT_FREE = re.compile("reserved|unused|control_|SPECIAL_")
_OF_TURNS = re.compile("im_start|im_end|header|turn|eot|eom|role|system|user|assistant|INST")
_OPTIONS = ("model.tokenizer.type", "model.tokenizer.pad_token")


def load_tokenizer(folder: str, pad_token: str | None, options: tuple[str, str] = _OPTIONS) -> Any:
    """Load the tokenizer in `folder`, with a pad token of its own.

    transformers finds the scored token as the last one that is not padding, so a model whose pad is also its
    end-of-sequence is scored one token early after export. Source:
    transformers/modeling_layers.py, GenericForSequenceClassification.forward.

    Args:
        folder: holds tokenizer.json or a slow tokenizer's files.
        pad_token: a token of the vocabulary to use as padding; None keeps the tokenizer's own, and so does auto where
            it has one, else that takes the first of `unused_tokens`.
        options: what the user sets the two with, for messages.

    Raises:
        UserError: there is no tokenizer, no pad token, or one that is the eos token or not in the vocabulary.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{options[0]}: {folder} is not a folder. Give a Hugging Face tokenizer folder.")
    check_folder(Path(folder))
    mend = "Take its files as they were published."
    with reading(f"{options[0]}: {folder} holds no tokenizer that loads: ", mend):
        tokenizer = open_tokenizer(Path(folder))
        unused = unused_tokens(tokenizer)
        tokenizer("a")
        return _with_pad_token(tokenizer, folder, pad_token, unused, options)


def _with_pad_token(
    tokenizer: Any, folder: str, pad_token: str | None, unused: list[str], options: tuple[str, str]
) -> Any:
    if pad_token == AUTO and tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        if not unused:
            raise UserError(
                f"{options[1]}=auto: the vocabulary of {folder} has no special token that nothing uses. Name a token "
                "that no text contains."
            )
        tokenizer.add_special_tokens({"pad_token": unused[0]})
    elif pad_token not in (None, AUTO):
        if pad_token not in tokenizer.get_vocab():
            raise UserError(
                f"{options[1]}: '{pad_token}' is not in the vocabulary of {folder}. Choose a token that is there and "
                f"that no text contains{_choice(unused)}."
            )
        tokenizer.add_special_tokens({"pad_token": pad_token})  # as the saved tokenizer will be when it is loaded
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        found = "no pad token" if tokenizer.pad_token is None else f"pad = eos = '{tokenizer.eos_token}'"
        raise UserError(
            f"{folder}: expected a pad token of its own, found {found}. The exported model would be scored at the "
            f"wrong token. {_advice(options[1], unused)}"
        )
    return tokenizer


def digest_of_tokenizer(tokenizer: Any) -> str:
    """Give the SHA-256 of what a tokenizer does: the same for a folder and for what was saved of it.

    It covers vocabulary, merges, normalisation and special tokens. The chat template is not in it, nor what a fast
    tokenizer cuts and fills up, which is turned off.
    """
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        does = tokenizer.backend_tokenizer.to_str()
    else:
        flags = [getattr(tokenizer, key, None) for key in ("add_bos_token", "add_eos_token")]
        file = Path(str(getattr(tokenizer, "vocab_file", "")))
        model = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
        does = json.dumps([flags, model, sorted(tokenizer.get_vocab().items())])
    return hashlib.sha256((json.dumps(named, sort_keys=True) + does).encode()).hexdigest()


def unused_tokens(tokenizer: Any) -> list[str]:
    """List the special tokens that neither the tokenizer nor its chat template uses, the best one to pad with first.

    Those with pad in their name come first, then those that say they are kept free, then the others, and those that
    templates of other models write last; each by id.
    """
    template = json.dumps(tokenizer.chat_template or "", ensure_ascii=False)
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    found = [
        (
            not re.search("pad", token.content, re.IGNORECASE),
            not _KEPT_FREE.search(token.content),
            bool(_OF_TURNS.search(token.content)),
            number,
        )
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content not in used and token.content not in template
    ]
    return [tokenizer.added_tokens_decoder[number].content for *_, number in sorted(found)]


def _choice(unused: list[str]) -> str:
    shown = ", ".join(unused[:_SHOWN]) + (f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else "")
    return f": {shown}" if unused else ""


def _advice(option: str, unused: list[str]) -> str:
    """Say what to type, as a shell takes it."""
    if not unused:
        return f"No special token of the vocabulary is unused: set {option} to a token that no text contains."
    typed = f"{option} {shlex.quote(unused[0])}" if option.startswith("-") else shlex.quote(f"{option}={unused[0]}")
    return f"Nothing uses these special tokens{_choice(unused)}. Type {typed}, or {option}=auto for the first of them."


def keep_tokenizer(tokenizer: Any, folder: Path, target: Path, new_template: bool = False) -> None:
    """Put a tokenizer into `target`: its own files, or saved anew where a part of it was chosen here.

    Args:
        folder: where it was loaded from.
        target: may exist.
        new_template: whether it was given another chat template; another pad token is seen by itself.
    """
    own = json.loads((folder / CONFIG).read_text()).get("pad_token") if (folder / CONFIG).exists() else None
    if new_template or (own["content"] if isinstance(own, dict) else own) != tokenizer.pad_token:
        tokenizer.save_pretrained(target)
        return
    copy_tokenizer(folder, target)


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy a tokenizer byte for byte, but for names of transformers 5, which become those that version 4 knows too."""
    for file in tokenizer_files(folder):
        (target / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / file.relative_to(folder))
    config = json.loads((folder / CONFIG).read_text()) if (folder / CONFIG).is_file() else {}
    if (changed := as_both_read(config)) != config:
        (target / CONFIG).write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n")

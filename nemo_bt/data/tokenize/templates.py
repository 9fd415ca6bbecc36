"""Where a chat template comes from: the tokenizer, `conf/chat_template`, or a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nemo_bt.conf
from nemo_bt.errors import UserError

PLAIN = "none"
"""Name of the template that there is none: conversations stay plain text."""
_MARK = re.compile(r"<\|[^|<>\s{}]+\|>")
"""How most families write the special tokens of their turns."""


def pick_template(tokenizer: Any, wanted: str | None) -> str | None:
    """Give the template that the settings name; None keeps conversations plain text.

    Raises:
        UserError: there is none of that name.
    """
    own = tokenizer.chat_template
    named: dict[str, str] = own if isinstance(own, dict) else {"default": own} if own else {}
    if wanted == PLAIN:
        return None
    if wanted is None:
        return named.get("default")
    if wanted in named:
        return named[wanted]
    folder = Path(next(iter(nemo_bt.conf.__path__))) / "chat_template"
    for file in (folder / f"{wanted}.jinja", Path(wanted)):
        if file.is_file():
            template = file.read_text()
            _check_marks(template, wanted, tokenizer)
            return template
    shipped = sorted(file.stem for file in folder.glob("*.jinja"))
    raise UserError(
        f"model.data.chat_template: {wanted} is no file, no template of the tokenizer ({', '.join(named) or 'none'}) "
        f"and none of {', '.join(shipped)}."
    )


def told(wanted: str | None, is_chat: bool, has_input_template: bool) -> str:
    """Say which template renders, and what that means for texts."""
    if not is_chat:
        return "no chat template: texts are not rendered"
    becomes = "is put into input_template instead" if has_input_template else "becomes a turn of it"
    return f"chat template: {wanted or 'of the tokenizer'}; a prompt of plain text {becomes}"


def template_for_tools(tokenizer: Any, wanted: str | None) -> str | None:
    """Give the template that transformers takes where there are tools, for a tokenizer that has several."""
    own = tokenizer.chat_template
    return own.get("tool_use") if isinstance(own, dict) and wanted is None else None


def _check_marks(template: str, name: str, tokenizer: Any) -> None:
    """Check that what the template writes as special tokens are tokens: else the scored one is a piece of text."""
    missing = sorted(set(_MARK.findall(template)) - tokenizer.get_vocab().keys())
    if missing:
        raise UserError(
            f"model.data.chat_template={name}: it writes {', '.join(missing)}, which the vocabulary of "
            f"{tokenizer.name_or_path} does not have: the model would read and be scored at pieces of them. Use the "
            "tokenizer's own template (null), or one that is made for it."
        )

"""A trial of a tokenizer and its chat template: both are programs of others, which may not end, or take all memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nemo_bt.data.formats.responses import Chat, Side, Text
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.errors import UserError
from nemo_bt.foreign.limited import ends_within_limits

if TYPE_CHECKING:
    from nemo_bt.data.tokenize.chat_template import Renderer

_ROLES = ("user", "assistant") * 3
_MOST_CHARACTERS = 2**18
"""Of a conversation of a few words; what templates say of tools and dates is some thousands."""
_TURNS = [
    {"role": role, "content": f"{number} words aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} for number, role in enumerate(_ROLES)
]
_FEW: tuple[Side, ...] = (
    Text("Say it: ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa."),
    Chat(_TURNS[:2]),
    Chat(_TURNS),
    Chat([{"role": "system", "content": "Be brief."}, *_TURNS]),
)


def check_ends(renderer: Renderer) -> None:
    """Render and tokenise a few short conversations within limits, where nothing else is lost.

    A template that ends for them and not for longer ones is not found.

    Raises:
        UserError: it does not end, takes too much, or writes far more than the messages.
    """
    what = f"{renderer.tokenizer.name_or_path}: its chat template"
    mend = "Set model.data.chat_template, or take another tokenizer."
    ends_within_limits(lambda: _tried(renderer), f"{what} or tokenizer, for a few short messages,", mend)
    for text in renderer.texts(_FEW[1:2]) if renderer.chat else ():
        if isinstance(text, str) and len(text) > _MOST_CHARACTERS:
            raise UserError(
                f"{what} writes {len(text):,} characters for a short message; expected at most {_MOST_CHARACTERS:,}. "
                f"{mend}"
            )


def _tried(renderer: Renderer) -> None:
    for side in _FEW if renderer.chat else _FEW[:1]:
        for text in renderer.texts([side]):
            if isinstance(text, RowError) and isinstance(text.__cause__, MemoryError):
                raise text.__cause__
            if isinstance(text, str):
                renderer.ids([[text]], [isinstance(side, Chat)])

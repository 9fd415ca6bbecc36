"""Conversations -> texts -> token ids, with exactly one BOS and nothing that changes from day to day."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

import nemo_bt.conf
from nemo_bt.batching.stream import Ids
from nemo_bt.config.data import TextSettings
from nemo_bt.data.formats.responses import Side, Text
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.shared_prefix import cut_strings, encode_sharing
from nemo_bt.errors import UserError

PLAIN = "none"


@dataclass(frozen=True)
class Renderer:
    """A tokenizer with the template that it renders messages with.

    Args:
        tokenizer: what `nemo_bt.data.tokenize.tokenizer.load_tokenizer` gives.
        template: Jinja source; None keeps conversations plain text.
        variables: what the template is given beside messages.
        adds_bos: whether the tokenizer puts a BOS in front of plain text.
        bos: token and id; None where there is none, or where it is the eos too.
        pad_id: id of the padding.
        cuts: tokens behind which texts can be cut (nemo_bt.data.tokenize.shared_prefix).
    """

    tokenizer: Any
    template: str | None
    variables: dict[str, Any]
    adds_bos: bool
    bos: tuple[str, int] | None
    pad_id: int
    cuts: list[str]

    @property
    def chat(self) -> bool:
        """Whether there is a template for messages."""
        return self.template is not None

    def texts(self, sides: Sequence[Side]) -> list[str | RowError]:
        """Render conversations as the texts that are tokenised, or say why the template refuses one.

        Raises:
            UserError: there are messages, but no template, or the template asks for today's date.
        """
        messages = [side for side in sides if not isinstance(side, Text)]
        try:
            rendered: list[str | RowError] = self._rendered(messages, answer_follows=False) if messages else []
        except RowError:
            rendered = [self._text_or_error(side) for side in messages]
        found = iter(rendered)
        return [side.prompt + side.response if isinstance(side, Text) else next(found) for side in sides]

    def _text_or_error(self, side: Side) -> str | RowError:
        try:
            text: str = self._rendered([side], answer_follows=False)[0]
            return text
        except RowError as error:
            return error

    def _rendered(self, conversations: list[Any], answer_follows: bool) -> list[Any]:
        if self.template is None:
            raise UserError(
                f"{self.tokenizer.name_or_path}: no chat template, which message lists need. Set "
                "model.data.chat_template to a file or a name, or give columns of plain text."
            )
        try:
            rendered: list[str] = self.tokenizer.apply_chat_template(
                conversations,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=answer_follows,
                **self.variables,
            )
        except (TemplateError, TypeError) as error:
            raise RowError("template", str(error)[:200]) from error
        return rendered

    def ids(self, groups: Sequence[Sequence[str]], of_messages: Sequence[bool]) -> list[list[Ids]]:
        """Tokenise whole conversations: ids, int32.

        A text gets the tokenizer's special tokens, and eos at its end. A rendered conversation has its own; a BOS is
        put in front where the tokenizer would and the template did not. None gets a second one.

        Args:
            groups: texts of the conversations about each prompt.
            of_messages: for each group, whether it was rendered from messages.
        """
        bos = self.tokenizer.bos_token
        eos = self.tokenizer.eos_token_id
        special = [
            (self.adds_bos or not rendered) and not (bos and texts and texts[0].startswith(bos))
            for texts, rendered in zip(groups, of_messages, strict=True)
        ]
        ids: list[list[Ids]] = [[]] * len(groups)
        for flag in (False, True):
            chosen = [i for i, is_special in enumerate(special) if is_special == flag]
            for i, found in zip(chosen, self._encode([groups[i] for i in chosen], flag), strict=True):
                ids[i] = found
        for found, rendered in zip(ids, of_messages, strict=True):
            if not rendered and eos is not None:
                found[:] = [i if len(i) and i[-1] == eos else np.append(i, np.int32(eos)) for i in found]
        return ids

    def _encode(self, groups: list[Sequence[str]], special: bool) -> list[list[Ids]]:
        """Tokenise with the tokenizer's special tokens, or without."""
        if self.tokenizer.is_fast and not special:
            return encode_sharing(self.tokenizer.backend_tokenizer, groups, self.cuts)
        flat = [text for texts in groups for text in texts]
        found = iter(self.tokenizer(flat, add_special_tokens=special)["input_ids"] if flat else [])
        return [[np.array(next(found), dtype=np.int32) for _ in texts] for texts in groups]

    def one_bos(self, ids: Ids, text: str) -> bool:
        """Tell whether a sequence has the BOS that it should, once and at its start."""
        if self.bos is None:
            return True
        token, bos = self.bos
        expected = self.adds_bos or text.startswith(token)
        return bool(np.count_nonzero(ids == bos) == expected and (not expected or ids[0] == bos))

    def prompt_tokens(self, side: Side, ids: Ids) -> int:
        """Count the tokens of a conversation that stand before the response."""
        if isinstance(side, Text):
            before = self.ids([[side.prompt]], [False])[0][0][:-1] if side.prompt else ids[:0]
        else:
            before = self.ids([self._rendered([side[:-1]], answer_follows=True)], [True])[0][0]
        longest = min(len(before), len(ids) - 1)
        differs = np.flatnonzero(before[:longest] != ids[:longest])
        return int(differs[0]) if len(differs) else longest

    def described(self) -> str:
        """Write down all that a token id can depend on, beside the tokenizer's files."""
        variables = {key: value for key, value in self.variables.items() if key != "strftime_now"}
        date = self.variables["strftime_now"]("%Y-%m-%d") if self.dated else None
        return json.dumps([self.template, variables, date, self.adds_bos, self.tokenizer.pad_token], sort_keys=True)

    @property
    def dated(self) -> bool:
        """Whether a date was set for the template."""
        return not isinstance(self.variables.get("strftime_now"), _NoDate)


class _NoDate:
    def __call__(self, layout: str) -> str:
        raise UserError(
            f"the chat template asks for today's date ({layout}): the same row would be other tokens tomorrow, and "
            "after export. Set model.data.chat_template to one without a date (llama3 is provided), or "
            "model.data.chat_template_date to a day."
        )


def load_renderer(tokenizer: Any, data: TextSettings) -> Renderer:
    """Make the renderer that the settings ask for; the tokenizer gets the template, so that it is saved with it.

    Raises:
        UserError: there is no such template, or a date is none.
    """
    clock: Callable[[str], str] = _NoDate()
    if data.chat_template_date is not None:
        try:
            day = datetime.date.fromisoformat(data.chat_template_date)
        except ValueError as error:
            raise UserError(f"model.data.chat_template_date: expected a day as 2024-07-26 ({error}).") from error
        clock = day.strftime
    template = _template(tokenizer, data.chat_template)
    if data.chat_template not in (None, PLAIN):
        tokenizer.chat_template = template
    first = tokenizer("a")["input_ids"][:1]
    adds_bos = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    cuts = cut_strings(tokenizer)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    bos = None
    if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id):
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    return Renderer(
        tokenizer,
        template,
        data.chat_template_kwargs | {"strftime_now": clock},
        adds_bos,
        bos,
        tokenizer.pad_token_id,
        cuts,
    )


def _template(tokenizer: Any, wanted: str | None) -> str | None:
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
            return file.read_text()
    shipped = sorted(file.stem for file in folder.glob("*.jinja"))
    raise UserError(
        f"model.data.chat_template: {wanted} is no file, no template of the tokenizer ({', '.join(named) or 'none'}) "
        f"and none of {', '.join(shipped)}."
    )

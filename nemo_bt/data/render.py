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
from nemo_bt.data.account import RowError
from nemo_bt.data.choices import Side, Text
from nemo_bt.data.settings import DataSettings
from nemo_bt.errors import UserError
from nemo_bt.stream import Ids

PLAIN = "none"


@dataclass(frozen=True)
class Renderer:
    """A tokenizer with the template that it renders messages with.

    Args:
        tokenizer: from `nemo_bt.data.tokenizer.load_tokenizer`.
        template: Jinja source; None keeps conversations plain text.
        variables: for the template.
        adds_bos: whether the tokenizer puts a BOS in front of plain text.
    """

    tokenizer: Any
    template: str | None
    variables: dict[str, Any]
    adds_bos: bool

    @property
    def chat(self) -> bool:
        """Whether there is a template for messages."""
        return self.template is not None

    def text(self, side: Side, answer_follows: bool = False) -> str:
        """A conversation as the text that is tokenised.

        Raises:
            RowError: the template refuses it.
            UserError: messages, but no template; a template that asks for today's date.
        """
        if isinstance(side, Text):
            return side.prompt + side.response
        if self.template is None:
            raise UserError(
                f"{self.tokenizer.name_or_path}: no chat template, which message lists need. Set "
                "model.data.chat_template to a file or a name, or give columns of plain text."
            )
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                side,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=answer_follows,
                **self.variables,
            )
        except (TemplateError, TypeError) as error:
            raise RowError("template", str(error)[:200]) from error
        return rendered

    def ids(self, texts: Sequence[str], of_messages: bool) -> list[Ids]:
        """Token ids of whole conversations, int32.

        A text gets the tokenizer's special tokens, and eos at its end. A rendered conversation has its own; a BOS is
        put in front where the tokenizer would and the template did not. None gets a second one.
        """
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token_id
        adds = self.adds_bos if of_messages else True
        special = [adds and not (bos and text.startswith(bos)) for text in texts]
        ids = _encode(self.tokenizer, texts, special)
        if of_messages or eos is None:
            return ids
        return [i if len(i) and i[-1] == eos else np.append(i, np.int32(eos)) for i in ids]

    def one_bos(self, ids: Ids, text: str) -> bool:
        """Whether a sequence has the BOS that it should, once and at its start."""
        bos = self.tokenizer.bos_token_id
        if bos is None or bos == self.tokenizer.eos_token_id:
            return True
        expected = 1 if self.adds_bos or text.startswith(self.tokenizer.bos_token) else 0
        return np.count_nonzero(ids == bos) == expected and (not expected or ids[0] == bos)

    def prompt_tokens(self, side: Side, ids: Ids) -> int:
        """How many of a conversation's tokens stand before the response."""
        if isinstance(side, Text):
            before = self.ids([side.prompt], of_messages=False)[0][:-1] if side.prompt else ids[:0]
        else:
            before = self.ids([self.text(side[:-1], answer_follows=True)], of_messages=True)[0]
        longest = min(len(before), len(ids) - 1)
        differs = np.flatnonzero(before[:longest] != ids[:longest])
        return int(differs[0]) if len(differs) else longest

    def described(self) -> str:
        """All of it that a token id can depend on, beside the tokenizer's files."""
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


def load_renderer(tokenizer: Any, data: DataSettings) -> Renderer:
    """The renderer that the settings ask for; gives the tokenizer the template, so that it is saved with it.

    Raises:
        UserError: no such template; a date that is none.
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
    return Renderer(tokenizer, template, data.chat_template_kwargs | {"strftime_now": clock}, adds_bos)


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


def _encode(tokenizer: Any, texts: Sequence[str], special: Sequence[bool]) -> list[Ids]:
    """Ids of each text, with special tokens where `special` says so."""
    ids: list[Ids] = [np.empty(0, dtype=np.int32)] * len(texts)
    for with_special in (False, True):
        chosen = [i for i, flag in enumerate(special) if flag == with_special]
        for i, found in zip(chosen, _encode_alike(tokenizer, [texts[i] for i in chosen], with_special), strict=True):
            ids[i] = np.array(found, dtype=np.int32)
    return ids


def _encode_alike(tokenizer: Any, texts: list[str], with_special: bool) -> list[list[int]]:
    if not texts:
        return []
    if not tokenizer.is_fast:
        slow: list[list[int]] = tokenizer(texts, add_special_tokens=with_special)["input_ids"]
        return slow
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=with_special)]

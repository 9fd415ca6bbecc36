"""Conversations -> texts -> token ids, as transformers has them, and nothing that changes from day to day."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_bt.batching.stream import Ids
from nemo_bt.config.data import TextSettings
from nemo_bt.data.formats.responses import Chat, Side, Text
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.shared_prefix import cut_strings, encode_sharing
from nemo_bt.data.tokenize.templates import PLAIN, pick_template, template_for_tools
from nemo_bt.data.tokenize.trial import check_ends
from nemo_bt.errors import UserError
from nemo_bt.foreign.files import reading

_MEND = "Take its files as they were published."
_MOST_CHARACTERS = 1 << 30
"""Characters that a template may make of the messages of a chunk of rows."""


@dataclass(frozen=True)
class Renderer:
    """A tokenizer with the template that it renders messages with.

    Args:
        tokenizer: what `nemo_bt.data.tokenize.tokenizer.load_tokenizer` gives.
        template: Jinja source; None keeps conversations plain text.
        tool_template: what is taken in its place where there are tools, if the tokenizer has one for them.
        variables: what the template is given beside messages.
        adds_bos: whether the tokenizer puts a BOS in front of plain text.
        pad_id: id of the padding.
        cuts: tokens behind which texts can be cut (nemo_bt.data.tokenize.shared_prefix).
        ends: special tokens but for bos and pad; a text that ends in one was rendered before.
    """

    tokenizer: Any
    template: str | None
    tool_template: str | None
    variables: dict[str, Any]
    adds_bos: bool
    pad_id: int
    cuts: list[str]
    ends: tuple[str, ...]

    @property
    def chat(self) -> bool:
        """Whether there is a template for messages."""
        return self.template is not None

    def texts(self, sides: Sequence[Side]) -> list[str | RowError]:
        """Render conversations as the texts that are tokenised, or say why the template refuses one.

        Raises:
            UserError: there are messages, but no template, or the template asks for today's date.
        """
        plain = [side.messages for side in sides if isinstance(side, Chat) and not side.tools]
        try:
            rendered: list[str | RowError] = self._rendered(plain, answer_follows=False) if plain else []
        except RowError:
            rendered = [self._one(Chat(messages)) for messages in plain]
        found = iter(rendered)
        return [
            side.prompt + side.response
            if isinstance(side, Text)
            else next(found)
            if not side.tools
            else self._one(side)
            for side in sides
        ]

    def _one(self, side: Chat) -> str | RowError:
        try:
            text: str = self._rendered([side.messages], answer_follows=False, tools=side.tools)[0]
            return text
        except RowError as error:
            return error

    def _rendered(self, conversations: list[Any], answer_follows: bool, tools: list[Any] | None = None) -> list[Any]:
        if self.template is None:
            raise UserError(
                f"{self.tokenizer.name_or_path}: no chat template, which message lists need. Set "
                "model.data.chat_template to a file or a name, or give columns of plain text."
            )
        try:
            rendered: list[str] = self.tokenizer.apply_chat_template(
                conversations,
                tools=tools,
                chat_template=(self.tool_template if tools else None) or self.template,
                tokenize=False,
                add_generation_prompt=answer_follows,
                **self.variables,
            )
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise RowError("template", str(error)[:200] or type(error).__name__) from error
        if sum(map(len, rendered)) > _MOST_CHARACTERS:
            raise RowError("template", f"it renders more than {_MOST_CHARACTERS:,} characters")
        return rendered

    def check_date(self) -> None:
        """Check that the template asks for no date; `texts` finds that out with the first conversation.

        Raises:
            UserError: it asks for today's.
        """
        if self.chat:
            self.texts([Chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])])

    def ids(self, groups: Sequence[Sequence[str]], of_messages: Sequence[bool]) -> list[list[Ids]]:
        """Tokenise whole conversations: ids, int32.

        A rendered conversation has the ids of transformers' `apply_chat_template(tokenize=True)`, with a BOS in front
        where the tokenizer puts one before texts and the template does not. A text that ends in a special token was
        rendered before it came here, and is treated alike. Any other text gets the tokenizer's special tokens, and eos
        at its end.

        Args:
            groups: texts of the conversations about each prompt.
            of_messages: for each group, whether it was rendered from messages.
        """
        rendered = [
            is_chat or (bool(texts) and all(self.is_rendered(text) for text in texts))
            for texts, is_chat in zip(groups, of_messages, strict=True)
        ]
        bos = self.tokenizer.bos_token
        special = [
            not done and not (bos and texts and texts[0].startswith(bos))
            for texts, done in zip(groups, rendered, strict=True)
        ]
        ids: list[list[Ids]] = [[]] * len(groups)
        for flag in (False, True):
            chosen = [i for i, is_special in enumerate(special) if is_special == flag]
            for i, found in zip(chosen, self._encode([groups[i] for i in chosen], flag), strict=True):
                ids[i] = found
        for found, done in zip(ids, rendered, strict=True):
            found[:] = [self._with_bos(i) if done else self._with_eos(i) for i in found]
        return ids

    def is_rendered(self, text: str) -> bool:
        """Tell whether a text ends in a special token, white space aside: somebody has rendered it already."""
        return text.rstrip().endswith(self.ends)

    def _with_bos(self, ids: Ids) -> Ids:
        bos = self.tokenizer.bos_token_id
        return np.concatenate([[np.int32(bos)], ids]) if self.adds_bos and not (len(ids) and ids[0] == bos) else ids

    def _with_eos(self, ids: Ids) -> Ids:
        eos = self.tokenizer.eos_token_id
        return ids if eos is None or (len(ids) and ids[-1] == eos) else np.append(ids, np.int32(eos))

    def _encode(self, groups: list[Sequence[str]], special: bool) -> list[list[Ids]]:
        """Tokenise with the tokenizer's special tokens, or without."""
        with reading(f"{self.tokenizer.name_or_path}: expected a tokenizer that tokenises, got ", _MEND):
            if self.tokenizer.is_fast and not special:
                return encode_sharing(self.tokenizer.backend_tokenizer, groups, self.cuts)
            flat = [text for texts in groups for text in texts]
            found = iter(self.tokenizer(flat, add_special_tokens=special)["input_ids"] if flat else [])
            return [[np.array(next(found), dtype=np.int32) for _ in texts] for texts in groups]

    def wrong_bos(self, ids: Ids) -> bool:
        """Tell whether a BOS is missing at the start, where the tokenizer puts one, or stands there twice."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return False
        starts = len(ids) > 0 and ids[0] == bos
        return bool(starts and len(ids) > 1 and ids[1] == bos) or (self.adds_bos and not starts)

    def prompt_tokens(self, side: Side, ids: Ids) -> int:
        """Count the tokens of a conversation that stand before the response."""
        if isinstance(side, Text):
            before = self.ids([[side.prompt]], [False])[0][0] if side.prompt else ids[:0]
        else:
            rendered = self._rendered([side.messages[:-1]], answer_follows=True, tools=side.tools)
            before = self.ids([rendered], [True])[0][0]
        longest = min(len(before), len(ids) - 1)
        differs = np.flatnonzero(before[:longest] != ids[:longest])
        return int(differs[0]) if len(differs) else longest

    def described(self) -> str:
        """Write down all that a token id can depend on, beside the tokenizer's files."""
        variables = {key: value for key, value in self.variables.items() if key != "strftime_now"}
        date = self.variables["strftime_now"]("%Y-%m-%d") if self.dated else None
        templates = [self.template, self.tool_template] if self.tool_template else [self.template]
        return json.dumps([*templates, variables, date, self.adds_bos, self.tokenizer.pad_token], sort_keys=True)

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
        UserError: there is no such template, a date is none, or the template does not end.
    """
    with reading(f"{tokenizer.name_or_path}: expected a tokenizer that tokenises, got ", _MEND):
        renderer = _made(tokenizer, data)
    check_ends(renderer)
    return renderer


def _made(tokenizer: Any, data: TextSettings) -> Renderer:
    clock: Callable[[str], str] = _NoDate()
    if data.chat_template_date is not None:
        try:
            day = datetime.date.fromisoformat(data.chat_template_date)
        except ValueError as error:
            raise UserError(f"model.data.chat_template_date: expected a day as 2024-07-26 ({error}).") from error
        clock = day.strftime
    template = pick_template(tokenizer, data.chat_template)
    if data.chat_template not in (None, PLAIN):
        tokenizer.chat_template = template
    first = tokenizer("a")["input_ids"][:1]
    adds_bos = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    cuts = cut_strings(tokenizer, template)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    starts = {tokenizer.bos_token, tokenizer.pad_token, tokenizer.unk_token} - {tokenizer.eos_token}
    ends = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return Renderer(
        tokenizer,
        template,
        template_for_tools(tokenizer, data.chat_template),
        data.chat_template_kwargs | {"strftime_now": clock},
        adds_bos,
        tokenizer.pad_token_id,
        cuts,
        tuple(sorted({*ends, *tokenizer.all_special_tokens} - starts)),
    )

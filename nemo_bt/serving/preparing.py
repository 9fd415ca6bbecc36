"""Bodies -> conversations -> token ids, in threads beside the event loop, where clients take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from nemo_bt.batching.stream import Ids
from nemo_bt.config.serve import ServeSettings
from nemo_bt.scoring.batch import Tokens
from nemo_bt.scoring.scorer import RewardScorer
from nemo_bt.serving.body import TooLarge, parse
from nemo_bt.serving.routes import Item, Route, size_of

_Found = TypeVar("_Found")
_SLICE_CHARACTERS = 2**16
"""Texts of a request that are tokenised at once, before others have their turn: some 50 ms."""


class Prepared(NamedTuple):
    """What was asked, and its conversations as token ids."""

    asked: Any
    tokens: Tokens


class _Slice(NamedTuple):
    """Conversations that are tokenised at once, and their size in characters."""

    items: Sequence[Item]
    size: int


@dataclass(eq=False)
class Preparing:
    """Turns bodies into token ids, one request of each client at a time, a slice of each in turn.

    What takes longer than a slice cannot be cut. It has a thread of its own, where only such wait for such: parsing and
    rendering give the others their turn every few milliseconds, and a fast tokenizer needs no turn of Python's at all.
    """

    scorer: RewardScorer
    settings: ServeSettings
    slices: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "slices"), init=False)
    long: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "long"), init=False)
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary, init=False)

    async def prepare(self, body: bytearray, route: Route, client: str, check: Callable[[Any], None]) -> Prepared:
        """Parse a body and tokenise its conversations.

        Args:
            check: looks at what is asked before its conversations are.

        Raises:
            HTTPException: there is too much of something (413), or the body is no such request (422).
            ValueError: a conversation cannot be scored.
        """
        turn = self._turns.setdefault(client, asyncio.Lock())
        async with turn:
            asked = await self._run(len(body), parse, body, route.kind, self.settings)
            check(asked)
            slices = await self._run(len(body), self._slices, route, asked)
            keeps = getattr(asked, "truncate_prompt_tokens", None)
            ids: list[Ids] = []
            for one in slices:
                ids += await self._run(one.size, self._ids, one.items, len(ids), keeps)
                if sum(map(len, ids)) > self.settings.max_request_tokens:
                    raise TooLarge(self.settings.max_request_tokens, "tokens")
        return Prepared(asked, Tokens(ids, {}))

    def close(self) -> None:
        """End the threads."""
        self.slices.shutdown()
        self.long.shutdown()

    async def _run(self, size: int, work: Callable[..., _Found], *args: Any) -> _Found:
        """Do work on so many characters or bytes."""
        thread = self.long if size > _SLICE_CHARACTERS else self.slices
        return await asyncio.get_running_loop().run_in_executor(thread, work, *args)

    def _slices(self, route: Route, asked: Any) -> list[_Slice]:
        """Cut the conversations of a request into slices, if their number and sizes are within the limits."""
        items = route.items(asked)
        if not items:
            raise ValueError("expected at least one conversation")
        limits = self.settings
        if len(items) > limits.max_request_items:
            raise TooLarge(limits.max_request_items, "conversations")
        sizes = list(map(size_of, items))
        if max(sizes) > limits.max_text_characters:
            raise TooLarge(limits.max_text_characters, f"characters, conversation {sizes.index(max(sizes))}")
        if sum(sizes) > limits.max_request_bytes:
            raise TooLarge(limits.max_request_bytes, "characters, each answer with its prompt")
        return _cut(items, sizes)

    def _ids(self, items: Sequence[Item], first: int, keeps: int | None) -> list[Ids]:
        """Tokenise conversations; `first` is the number of the first one."""
        try:
            whole = [self.scorer.conversation(*one) if isinstance(one, tuple) else one for one in items]
            return self.scorer.tokenise(whole, keeps, first).ids
        except ValueError:
            raise
        except Exception as error:  # a chat template is a program: it may raise anything
            if len(items) > 1:
                return [ids for i, one in enumerate(items) for ids in self._ids([one], first + i, keeps)]
            raise ValueError(f"conversation {first} cannot be scored: {type(error).__name__}, {error}") from error


def _cut(items: Sequence[Item], sizes: Sequence[int]) -> list[_Slice]:
    """Cut conversations into slices of so many characters, or of one longer conversation."""
    slices = []
    start = size = 0
    for i, one in enumerate(sizes):
        if size + one > _SLICE_CHARACTERS and i > start:
            slices.append(_Slice(items[start:i], size))
            start, size = i, 0
        size += one
    return [*slices, _Slice(items[start:], size)]

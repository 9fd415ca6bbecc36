"""A queue of requests: those that wait while the model is busy are computed together when it is free again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nemo_bt.scoring.batch import Tokens


class Full(Exception):  # noqa: N818 - a state, not a mistake
    """More tokens wait than are allowed."""


class _Waiting(NamedTuple):
    tokens: Tokens
    num_tokens: int
    answer: asyncio.Future[list[Any]]


@dataclass(eq=False)
class Batcher:
    """Takes conversations from many requests and gives each its rewards.

    Nothing waits on purpose: a request that finds the model free is computed at once, alone; those that come meanwhile
    are the next batch.

    Args:
        score: gives what each conversation gets, in their order; it is called in one thread, one call at a time.
        tokens_per_batch: most tokens of a batch with several requests; a request is never cut.
        max_waiting_tokens: most tokens that may wait.
        report: is told the number of conversations and of tokens of each batch.
    """

    score: Callable[[Tokens], list[Any]]
    tokens_per_batch: int
    max_waiting_tokens: int
    report: Callable[[int, int], None]
    waiting_tokens: int = field(default=0, init=False)
    _queue: deque[_Waiting] = field(default_factory=deque, init=False)
    _has_some: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def rewards(self, tokens: Tokens) -> list[Any]:
        """Give the rewards of one request, when a batch has computed them.

        Raises:
            Full: too many tokens wait already.
        """
        num_tokens = sum(map(len, tokens.ids))
        if self._queue and self.waiting_tokens + num_tokens > self.max_waiting_tokens:
            raise Full
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(tokens, num_tokens, answer))
        self.waiting_tokens += num_tokens
        self._has_some.set()
        return await answer

    async def run(self) -> None:
        """Compute batches until this task is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "scoring") as thread:
            while True:
                await self._has_some.wait()
                batch = self._take()
                together = Tokens([ids for one in batch for ids in one.tokens.ids], {})
                try:
                    rewards = await loop.run_in_executor(thread, self.score, together)
                except Exception as error:  # noqa: BLE001 - it is raised again where the rewards are waited for
                    for one in batch:
                        with suppress(asyncio.InvalidStateError):
                            one.answer.set_exception(error)
                    continue
                self.report(len(together.ids), sum(one.num_tokens for one in batch))
                coming = iter(rewards)
                for one in batch:
                    found = [next(coming) for _ in one.tokens.ids]
                    with suppress(asyncio.InvalidStateError):  # the client may be gone
                        one.answer.set_result(found)

    def _take(self) -> list[_Waiting]:
        """Take the oldest requests that fit into a batch, at least one; those whose client is gone are left out."""
        batch: list[_Waiting] = []
        room = self.tokens_per_batch
        while self._queue and (not batch or self._queue[0].num_tokens <= room):
            one = self._queue.popleft()
            self.waiting_tokens -= one.num_tokens
            if not one.answer.done():
                batch.append(one)
                room -= one.num_tokens
        if not self._queue:
            self._has_some.clear()
        return batch

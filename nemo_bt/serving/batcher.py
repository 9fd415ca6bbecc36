"""A queue of requests: those that wait while the model is busy are computed together when it is free again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from nemo_bt.batching.stream import Ids
from nemo_bt.scoring.batch import Tokens
from nemo_bt.serving.share import Share

_BATCHES_OF_A_PIECE = 4
"""Larger requests are computed in pieces of so many batches: what its conversations share is computed once a piece."""


class _Waiting(NamedTuple):
    ids: list[Ids]
    num_tokens: int
    answer: asyncio.Future[list[Any]]


@dataclass(eq=False)
class Batcher:
    """Takes conversations from many requests and gives each its rewards.

    Nothing waits on purpose: a request that finds the model free is computed at once, alone; those that come meanwhile
    are the next batch. Clients take turns, whatever each has waiting.

    Args:
        score: gives what each conversation gets, in their order; it is called in one thread, one call at a time.
        tokens_per_batch: most tokens of a batch with several requests; a conversation is never cut.
        max_waiting_tokens: most tokens that may wait.
        report: is told the number of conversations and of tokens of each batch.
        client_share: part of max_waiting_tokens that one client may have waiting.
    """

    score: Callable[[Tokens], list[Any]]
    tokens_per_batch: int
    max_waiting_tokens: int
    report: Callable[[int, int], None]
    client_share: float = 1.0
    _queues: dict[str, deque[_Waiting]] = field(default_factory=dict, init=False)
    """What waits of each client; the one whose turn it is stands first."""
    _has_some: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._waiting = Share(self.max_waiting_tokens, self.client_share)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait."""
        return self._waiting.held

    async def rewards(self, tokens: Tokens, client: str = "") -> list[Any]:
        """Give the rewards of one request, when batches have computed them.

        Raises:
            Full: too many tokens wait already.
        """
        self._waiting.take(client, sum(map(len, tokens.ids)))
        pieces = [
            self._enqueue(ids, client) for ids in _pieces(tokens.ids, _BATCHES_OF_A_PIECE * self.tokens_per_batch)
        ]
        try:
            return list(chain.from_iterable(await asyncio.gather(*pieces)))
        finally:
            for answer in pieces:
                answer.cancel()  # those that still wait are of no use once another has failed
            del (
                pieces,
                answer,
            )  # an error holds this frame: a circle of them would hold the tokens until it is collected

    def _enqueue(self, ids: list[Ids], client: str) -> asyncio.Future[list[Any]]:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(_Waiting(ids, sum(map(len, ids)), answer))
        self._has_some.set()
        return answer

    async def run(self) -> None:
        """Compute batches until this task is cancelled."""
        with ThreadPoolExecutor(1, "scoring") as thread:
            while True:
                await self._has_some.wait()
                await self._compute(self._take(), thread)

    async def _compute(self, batch: list[_Waiting], thread: ThreadPoolExecutor) -> None:
        """Answer requests; one that cannot be computed fails alone."""
        together = Tokens([ids for one in batch for ids in one.ids], {})
        try:
            rewards = await asyncio.get_running_loop().run_in_executor(thread, self.score, together)
        except Exception as error:  # noqa: BLE001 - it is raised again where the rewards are waited for
            if len(batch) > 1:
                for one in batch:
                    await self._compute([one], thread)
            for one in batch:
                with suppress(asyncio.InvalidStateError):  # it has its answer, or the client is gone
                    one.answer.set_exception(error)
            return
        self.report(len(together.ids), sum(one.num_tokens for one in batch))
        coming = iter(rewards)
        for one in batch:
            found = [next(coming) for _ in one.ids]
            with suppress(asyncio.InvalidStateError):
                one.answer.set_result(found)

    def _take(self) -> list[_Waiting]:
        """Take the oldest of each client in turn that fit into a batch, at least one; without clients that are gone."""
        batch: list[_Waiting] = []
        room = self.tokens_per_batch
        while self._queues:
            client, queue = next(iter(self._queues.items()))
            if batch and queue[0].num_tokens > room:
                break
            one = queue.popleft()
            self._waiting.give_back(client, one.num_tokens)
            del self._queues[client]
            if queue:
                self._queues[client] = queue  # behind the others
            if not one.answer.done():
                batch.append(one)
                room -= one.num_tokens
        if not self._queues:
            self._has_some.clear()
        return batch


def _pieces(ids: list[Ids], most_tokens: int) -> Iterator[list[Ids]]:
    """Cut a request into pieces of so many tokens, or of one longer conversation."""
    piece: list[Ids] = []
    num_tokens = 0
    for one in ids:
        if piece and num_tokens + len(one) > most_tokens:
            yield piece
            piece, num_tokens = [], 0
        piece.append(one)
        num_tokens += len(one)
    yield piece

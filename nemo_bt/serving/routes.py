"""The routes of requests for rewards: what each asks, its conversations, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel

from nemo_bt.scoring.scorer import Conversation
from nemo_bt.serving import protocol

Item: TypeAlias = "Conversation | tuple[str, str]"
"""A conversation, or a prompt and its response, which are put together when it is their turn."""
_PART_CHARACTERS = 16
"""What a turn, a field or an element of a list costs beside its text: one takes as long as so many of text."""


@dataclass(frozen=True)
class Rewards:
    """What the conversations of a request got.

    Args:
        rows: the reward of each, and its attributes.
        attributes: their names.
        num_tokens: tokens of all conversations.
    """

    rows: list[list[float]]
    attributes: list[str]
    num_tokens: int

    @property
    def alone(self) -> list[float]:
        """Rewards without attributes."""
        return [reward for reward, *_ in self.rows]


@dataclass(frozen=True)
class Route:
    """Paths, what is asked there, and what answers it.

    Args:
        kind: pydantic's model of the body.
        items: gives its conversations; it raises ValueError where it has none.
        answer: makes the answer, from the name of the model, what was asked, and rewards.
    """

    paths: tuple[str, ...]
    kind: type[BaseModel]
    items: Callable[[Any], Sequence[Item]]
    answer: Callable[[str, Any, Rewards], Any]


def size_of(item: Item) -> int:
    """Count the characters that are rendered and tokenised for an item, at any depth, or the ids that are checked.

    A template reads all of a message and writes around it: each object, list, field and element counts as some more.
    """
    if isinstance(item, tuple):
        return len(item[0]) + len(item[1])
    if isinstance(item, list) and all(type(token) is int for token in item):
        return len(item)
    size = 0
    waiting: list[Any] = [item]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            size += _PART_CHARACTERS * (1 + len(part)) + sum(map(len, part))
            waiting += part.values()
        elif isinstance(part, list):
            size += _PART_CHARACTERS * (1 + len(part))
            waiting += part
        else:
            size += len(part if isinstance(part, str) else repr(part))
    return size


def _reward(model: str, asked: protocol.RewardRequest, found: Rewards) -> Any:
    attributes = [dict(zip(found.attributes, values, strict=True)) for _, *values in found.rows]
    return {"model": model, "rewards": found.alone} | ({"attributes": attributes} if found.attributes else {})


def _get_reward(model: str, asked: protocol.RemoteRequest, found: Rewards) -> Any:
    return {"rewards": found.alone, "scores": found.alone, "extra_logs": {}}


ROUTES = (
    Route(("/reward",), protocol.RewardRequest, lambda asked: list(map(protocol.plain, asked.conversations)), _reward),
    Route(
        ("/classify", "/v1/classify"),
        protocol.ClassifyRequest,
        protocol.of_classify,
        lambda model, asked, found: protocol.classify_answer(model, found.alone, found.num_tokens),
    ),
    Route(
        ("/pooling", "/v1/pooling"),
        protocol.ClassifyRequest,
        protocol.of_classify,
        lambda model, asked, found: protocol.pooling_answer(model, found.alone, found.num_tokens),
    ),
    Route(
        ("/score", "/v1/score"),
        protocol.ScoreRequest,
        protocol.of_score,
        lambda model, asked, found: protocol.score_answer(model, found.alone, found.num_tokens),
    ),
    Route(
        ("/rerank", "/v1/rerank", "/v2/rerank"),
        protocol.RerankRequest,
        lambda asked: [(asked.query, document) for document in asked.documents],
        lambda model, asked, found: protocol.rerank_answer(model, asked, found.alone, found.num_tokens),
    ),
    Route(
        ("/v1/embeddings",),
        protocol.EmbeddingRequest,
        lambda asked: protocol.texts_of(asked.input),
        lambda model, asked, found: protocol.embedding_answer(asked, model, found.alone, found.num_tokens),
    ),
    Route(("/get_reward",), protocol.RemoteRequest, lambda asked: asked.query, _get_reward),
    Route(
        ("/remote_rm",),
        protocol.SampleRequest,
        lambda asked: [protocol.of_sample(asked)],
        lambda model, asked, found: found.alone[0],
    ),
)

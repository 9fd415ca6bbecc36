"""Requests and answers of the routes: one of our own, and two of vLLM's.

Source: vLLM 0.10, entrypoints/openai/protocol.py: ClassificationRequest, ScoreRequest and their responses.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nemo_bt.scoring.scorer import Conversation


class Message(BaseModel):
    """One turn of a conversation."""

    role: str
    content: str


Given = str | list[Message]


class RewardRequest(BaseModel):
    """POST /reward: conversations, each a text or messages that end with the response."""

    model_config = ConfigDict(extra="forbid")
    conversations: list[Given] = Field(min_length=1)


class ClassifyRequest(BaseModel):
    """POST /classify: texts as they are, or messages; vLLM's other fields are ignored."""

    model: str | None = None
    input: str | list[str] | None = None
    messages: list[Message] | None = None


class ScoreRequest(BaseModel):
    """POST /score: prompts and responses, one against many or in pairs; vLLM's other fields are ignored."""

    model: str | None = None
    text_1: str | list[str]
    text_2: str | list[str]


def plain(given: Given) -> Conversation:
    """Give a conversation as the scorer takes it."""
    return given if isinstance(given, str) else [{"role": turn.role, "content": turn.content} for turn in given]


def of_classify(request: ClassifyRequest) -> list[Conversation]:
    """Give the conversations of a request.

    Raises:
        ValueError: the request has neither input nor messages, or both.
    """
    if (request.input is None) == (request.messages is None):
        raise ValueError("expected input or messages, and not both")
    if request.messages is not None:
        return [plain(request.messages)]
    return [request.input] if isinstance(request.input, str) else list(request.input or [])


def of_score(request: ScoreRequest) -> list[Conversation]:
    """Put each response behind its prompt.

    Raises:
        ValueError: there are neither one prompt nor as many prompts as responses.
    """
    prompts = [request.text_1] if isinstance(request.text_1, str) else request.text_1
    responses = [request.text_2] if isinstance(request.text_2, str) else request.text_2
    if len(prompts) == 1:
        prompts = prompts * len(responses)
    if len(prompts) != len(responses):
        raise ValueError(f"text_1 has {len(prompts)} texts, text_2 {len(responses)}: expected one prompt, or as many")
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def classify_answer(model: str, rewards: list[float], num_tokens: int) -> dict[str, Any]:
    """Answer as vLLM does for a model with one class and no activation: the reward stands for the probability."""
    data = [
        {"index": index, "label": "LABEL_0", "probs": [reward], "num_classes": 1}
        for index, reward in enumerate(rewards)
    ]
    return _answer("classify", model, data, num_tokens)


def score_answer(model: str, rewards: list[float], num_tokens: int) -> dict[str, Any]:
    """Answer as vLLM does."""
    data = [{"index": index, "object": "score", "score": reward} for index, reward in enumerate(rewards)]
    return _answer("score", model, data, num_tokens)


def _answer(
    kind: Literal["classify", "score"], model: str, data: list[dict[str, Any]], num_tokens: int
) -> dict[str, Any]:
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0},
    }

"""Requests and answers of the routes: one of our own, vLLM's, SGLang's, OpenRLHF's and slime's.

Source: vLLM 0.11, entrypoints/openai/protocol.py: the requests for classification, pooling, scores and reranking, and
their responses; SGLang 0.5, entrypoints/openai/serving_embedding.py; OpenRLHF 0.11, cli/serve_rm.py and
utils/agent.py; slime, rollout/rm_hub.
"""

from __future__ import annotations

import base64
import struct
import time
import uuid
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nemo_bt.scoring.scorer import Conversation

_Item = TypeVar("_Item")
Several = Annotated[list[_Item], Field(fail_fast=True)]
"""A list that is refused at its first wrong item: a million of them would be a million descriptions of errors."""


class Message(BaseModel):
    """One turn of a conversation; name, tool_calls and the like go to the chat template."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | Several[dict[str, Any]] | None = None


Given = str | Several[int] | Several[Message]
"""A whole text, its token ids, or messages."""


class RewardRequest(BaseModel):
    """POST /reward: conversations that end with the response."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})
    conversations: Annotated[list[Given], Field(min_length=1, fail_fast=True)]

    @model_validator(mode="after")
    def _is_all(self) -> RewardRequest:
        """Refuse other fields by the first of them, where extra="forbid" would describe each."""
        for name in self.model_extra or ():
            raise ValueError(f"{name[:100]}: Extra inputs are not permitted")
        return self


class OneInput(BaseModel):
    """What vLLM's requests have in common; other fields of theirs are ignored."""

    model: str | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    """Tokens that stay of the end of a longer text; -1: as many as the model takes."""


class ClassifyRequest(OneInput):
    """POST /classify and /pooling: texts as they are, token ids, or messages."""

    input: str | Several[int] | Several[str] | Several[Several[int]] | None = None
    messages: Several[Message] | None = None
    tools: list[Any] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    documents: list[Any] | None = None


class ScoreRequest(OneInput):
    """POST /score: prompts and responses, one against many or in pairs."""

    text_1: str | Several[str] | None = None
    text_2: str | Several[str] | None = None
    queries: str | Several[str] | None = None
    documents: str | Several[str] | None = None


class RerankRequest(OneInput):
    """POST /rerank: responses to one prompt."""

    query: str
    documents: Annotated[list[str], Field(min_length=1, fail_fast=True)]
    top_n: int = Field(0, ge=0)


class RemoteRequest(BaseModel):
    """POST /get_reward: OpenRLHF's texts, prompt and response together; prompts and labels are ignored."""

    query: Annotated[list[str], Field(min_length=1, fail_fast=True)]


class EmbeddingRequest(OneInput):
    """POST /v1/embeddings: as SGLang serves a reward model, texts as they are or token ids."""

    input: str | Several[int] | Several[str] | Several[Several[int]]
    encoding_format: Literal["float", "base64"] = "float"


class SampleRequest(BaseModel):
    """POST /remote_rm: slime's sample. The label is ignored."""

    prompt: str | Several[Message]
    response: str


def plain(given: Given) -> Conversation:
    """Give a conversation as the scorer takes it."""
    if isinstance(given, str):
        return given
    return [turn.model_dump(exclude_unset=True) if isinstance(turn, Message) else turn for turn in given]  # type: ignore[return-value]


_RENDERED_OTHERWISE = (
    "tools",
    "chat_template",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "documents",
)


def of_classify(request: ClassifyRequest) -> list[Conversation]:
    """Give the conversations of a request.

    Raises:
        ValueError: the request has neither input nor messages, or both; or it wants messages rendered otherwise.
    """
    for name in _RENDERED_OTHERWISE:
        if request.messages is not None and getattr(request, name):
            raise ValueError(
                f"{name}: expected none: messages are rendered as the model's training did. Render them, and send input"
            )
    if (request.input is None) == (request.messages is None):
        raise ValueError("expected input or messages, and not both")
    if request.messages is not None:
        return [plain(request.messages)]
    return texts_of(request.input)


def texts_of(given: Any) -> list[Conversation]:
    """Take one text, or its token ids, for a list of one."""
    is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    return [given] if is_one else list(given)


def of_sample(request: SampleRequest) -> Conversation:
    """Put the response of a sample behind its prompt; a text was rendered before, as the policy has read it."""
    if isinstance(request.prompt, str):
        return request.prompt + request.response
    return [*plain(request.prompt), {"role": "assistant", "content": request.response}]


def of_score(request: ScoreRequest) -> list[tuple[str, str]]:
    """Give each response with its prompt.

    Raises:
        ValueError: there are neither one prompt nor as many prompts as responses.
    """
    before, behind = request.text_1, request.text_2
    if before is None and behind is None:
        before, behind = request.queries, request.documents
    if before is None or behind is None:
        raise ValueError("expected text_1 and text_2, or queries and documents")
    prompts = [before] if isinstance(before, str) else before
    responses = [behind] if isinstance(behind, str) else behind
    if len(prompts) == 1:
        prompts = prompts * len(responses)
    if len(prompts) != len(responses):
        raise ValueError(f"text_1 has {len(prompts)} texts, text_2 {len(responses)}: expected one prompt, or as many")
    return list(zip(prompts, responses, strict=True))


def classify_answer(model: str, rewards: list[float], num_tokens: int) -> dict[str, Any]:
    """Answer as vLLM does for a model with one class and no activation: the reward stands for the probability."""
    data = [
        {"index": index, "label": "LABEL_0", "probs": [reward], "num_classes": 1}
        for index, reward in enumerate(rewards)
    ]
    return _answer("classify", model, data, num_tokens)


def pooling_answer(model: str, rewards: list[float], num_tokens: int) -> dict[str, Any]:
    """Answer as vLLM does for a model that pools a text to one number."""
    data = [{"index": index, "object": "pooling", "data": [reward]} for index, reward in enumerate(rewards)]
    return _answer("pool", model, data, num_tokens)


def embedding_answer(request: EmbeddingRequest, model: str, rewards: list[float], num_tokens: int) -> dict[str, Any]:
    """Answer as SGLang does for a reward model: the reward is the only number of the embedding."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(reward, request.encoding_format)}
        for index, reward in enumerate(rewards)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _encoded(reward: float, encoding_format: str) -> list[float] | str:
    """Give the reward in a list, or as the bytes of one, float32 with the lowest byte first."""
    return [reward] if encoding_format == "float" else base64.b64encode(struct.pack("<f", reward)).decode()


def score_answer(model: str, rewards: list[float], num_tokens: int) -> dict[str, Any]:
    """Answer as vLLM does."""
    data = [{"index": index, "object": "score", "score": reward} for index, reward in enumerate(rewards)]
    return _answer("score", model, data, num_tokens)


def rerank_answer(model: str, asked: RerankRequest, rewards: list[float], num_tokens: int) -> dict[str, Any]:
    """Answer as vLLM does: the best first."""
    order = sorted(range(len(rewards)), key=lambda index: -rewards[index])[: asked.top_n or None]
    results = [
        {"index": index, "document": {"text": asked.documents[index]}, "relevance_score": rewards[index]}
        for index in order
    ]
    usage = {"total_tokens": num_tokens}
    return {"id": f"rerank-{uuid.uuid4().hex}", "model": model, "usage": usage, "results": results}


def models_answer(model: str, longest_tokens: int) -> dict[str, Any]:
    """Answer GET /v1/models as vLLM does."""
    one = {"id": model, "object": "model", "created": int(time.time()), "owned_by": "nemo_bt", "root": model}
    return {"object": "list", "data": [one | {"parent": None, "max_model_len": longest_tokens, "permission": []}]}


def _answer(kind: str, model: str, data: list[dict[str, Any]], num_tokens: int) -> dict[str, Any]:
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0}
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": usage,
    }

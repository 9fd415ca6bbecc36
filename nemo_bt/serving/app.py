"""The routes: /reward, those of the clients of vLLM, SGLang, OpenRLHF and slime, /health, /metrics."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

import nemo_bt
from nemo_bt.config.serve import ServeSettings
from nemo_bt.scoring.scorer import Conversation, RewardScorer
from nemo_bt.serving import protocol
from nemo_bt.serving.batcher import Batcher, Full
from nemo_bt.serving.metrics import Metrics

_Asked = TypeVar("_Asked", bound=BaseModel)


class _Service:
    """A scorer behind limits."""

    def __init__(self, scorer: RewardScorer, settings: ServeSettings, model: str, token: str | None) -> None:
        self.scorer = scorer
        self.model = model
        self.settings = settings
        self.token = token
        self.metrics = Metrics(lambda: self.batcher.waiting_tokens)
        budget = scorer.rules.budget_tokens
        self.batcher = Batcher(scorer.score_all, budget, settings.max_waiting_tokens, self.metrics.report)
        self._tokenising = ThreadPoolExecutor(1, "tokenising")

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the batcher until every request that was taken on has its answer."""
        running = asyncio.create_task(self.batcher.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        self._tokenising.shutdown()

    async def all_rewards(
        self, conversations: list[Conversation], keeps: int | None = None
    ) -> tuple[list[list[float]], int]:
        """Give the reward and the attributes of conversations, and the number of their tokens.

        Args:
            keeps: as RewardScorer.tokenise has it.

        Raises:
            ValueError: there is no conversation, or one cannot be scored.
        """
        if not conversations:
            raise ValueError("expected at least one conversation")
        loop = asyncio.get_running_loop()
        tokens = await loop.run_in_executor(self._tokenising, self.scorer.tokenise, conversations, keeps)
        return await self.batcher.rewards(tokens), sum(map(len, tokens.ids))

    async def rewards(self, conversations: list[Conversation], keeps: int | None = None) -> tuple[list[float], int]:
        """Give rewards alone, as `all_rewards` does."""
        rows, num_tokens = await self.all_rewards(conversations, keeps)
        return [reward for reward, *_ in rows], num_tokens

    async def answer(self, request: Request, kind: type[_Asked], use: Callable[[_Asked], Awaitable[Any]]) -> Any:
        """Check the request, read it, and answer in time."""
        _check_token(request, self.token)
        asked = await _read(request, kind, self.settings)
        named = getattr(asked, "model", None)
        if named not in (None, "", self.model):
            raise HTTPException(404, f"model: expected {self.model}, or none, got {named}")
        limit_s = self.settings.answer_timeout_s
        try:
            return await asyncio.wait_for(use(asked), limit_s)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {limit_s:g} s") from None
        except Full:
            raise HTTPException(503, "too much waits already; try again", {"Retry-After": "1"}) from None
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    async def count(self, request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        """Handle a request, and count it in the metrics."""
        start_s = time.perf_counter()
        route = request.url.path if request.url.path in _ROUTES else "other"
        response = await handle(request)
        self.metrics.requests.labels(route, str(response.status_code)).inc()
        self.metrics.seconds.labels(route).observe(time.perf_counter() - start_s)
        return response


async def _reward(service: _Service, model: str, asked: protocol.RewardRequest) -> Any:
    rows, _ = await service.all_rewards([protocol.plain(one) for one in asked.conversations])
    names = list(service.scorer.engine.attributes)
    attributes = [dict(zip(names, values, strict=True)) for _, *values in rows]
    return {"model": model, "rewards": [row[0] for row in rows]} | ({"attributes": attributes} if names else {})


async def _classify(service: _Service, model: str, asked: protocol.ClassifyRequest) -> Any:
    found = await service.rewards(protocol.of_classify(asked), asked.truncate_prompt_tokens)
    return protocol.classify_answer(model, *found)


async def _pool(service: _Service, model: str, asked: protocol.ClassifyRequest) -> Any:
    found = await service.rewards(protocol.of_classify(asked), asked.truncate_prompt_tokens)
    return protocol.pooling_answer(model, *found)


async def _embed(service: _Service, model: str, asked: protocol.EmbeddingRequest) -> Any:
    found = await service.rewards(protocol.texts_of(asked.input), asked.truncate_prompt_tokens)
    return protocol.embedding_answer(asked, model, *found)


async def _score(service: _Service, model: str, asked: protocol.ScoreRequest) -> Any:
    conversations = [service.scorer.conversation(*one) for one in protocol.of_score(asked)]
    found = await service.rewards(conversations, asked.truncate_prompt_tokens)
    return protocol.score_answer(model, *found)


async def _rerank(service: _Service, model: str, asked: protocol.RerankRequest) -> Any:
    conversations = [service.scorer.conversation(asked.query, document) for document in asked.documents]
    found = await service.rewards(conversations, asked.truncate_prompt_tokens)
    return protocol.rerank_answer(model, asked, *found)


async def _get_reward(service: _Service, model: str, asked: protocol.RemoteRequest) -> Any:
    rewards, _ = await service.rewards(list(asked.query))
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}


async def _of_sample(service: _Service, model: str, asked: protocol.SampleRequest) -> Any:
    rewards, _ = await service.rewards([protocol.of_sample(asked)])
    return rewards[0]


_POSTS: tuple[tuple[tuple[str, ...], type[Any], Callable[..., Awaitable[Any]]], ...] = (
    (("/reward",), protocol.RewardRequest, _reward),
    (("/classify", "/v1/classify"), protocol.ClassifyRequest, _classify),
    (("/pooling", "/v1/pooling"), protocol.ClassifyRequest, _pool),
    (("/score", "/v1/score"), protocol.ScoreRequest, _score),
    (("/rerank", "/v1/rerank", "/v2/rerank"), protocol.RerankRequest, _rerank),
    (("/v1/embeddings",), protocol.EmbeddingRequest, _embed),
    (("/get_reward",), protocol.RemoteRequest, _get_reward),
    (("/remote_rm",), protocol.SampleRequest, _of_sample),
)
"""Paths, what is asked there, and what answers it."""
_ROUTES = {*(path for paths, *_ in _POSTS for path in paths), "/v1/models", "/version", "/health", "/metrics"}


def _handler(service: _Service, model: str, kind: type[Any], use: Callable[..., Awaitable[Any]]) -> Any:
    async def handle(request: Request) -> Any:
        return await service.answer(request, kind, partial(use, service, model))

    return handle


def build_app(scorer: RewardScorer, settings: ServeSettings, model: str, token: str | None) -> FastAPI:
    """Build the application.

    Args:
        scorer: scorer that nobody else uses.
        settings: limits of size and time.
        model: name of the model in answers.
        token: token that requests have to bear; None where they need none.
    """
    service = _Service(scorer, settings, model, token)
    app = FastAPI(title="nemo_bt", lifespan=service.lifespan, docs_url=None, redoc_url=None)
    app.middleware("http")(service.count)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    for paths, kind, use in _POSTS:
        for path in paths:
            app.post(path)(_handler(service, model, kind, use))

    @app.get("/v1/models")
    async def models() -> Any:
        return protocol.models_answer(model, scorer.limit.tokens)

    @app.get("/version")
    async def version() -> Any:
        return {"version": nemo_bt.__version__}

    @app.get("/health")
    async def health() -> Any:
        return {"status": "ok", "model": model}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _check_token(request: Request, token: str | None) -> None:
    given = request.headers.get("authorization", "").encode()
    if token is not None and not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise HTTPException(401, "expected Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"})


async def _read(request: Request, kind: type[_Asked], settings: ServeSettings) -> _Asked:
    """Read the body within its limits of size and time."""
    too_large = HTTPException(413, f"expected at most {settings.max_request_bytes} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > settings.max_request_bytes:
        raise too_large
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > settings.max_request_bytes:
                raise too_large

    try:
        await asyncio.wait_for(read(), settings.read_timeout_s)
        return kind.model_validate_json(bytes(body))
    except TimeoutError:
        raise HTTPException(408, f"no whole request within {settings.read_timeout_s:g} s") from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        deepest = max(found, key=lambda one: len(one["loc"]))  # a union reports every choice; this is the closest
        raise HTTPException(422, f"{'.'.join(map(str, deepest['loc']))}: {deepest['msg']}") from None

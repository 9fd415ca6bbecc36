"""What becomes of a request: the token, the body, token ids, rewards, the answer; /health, /metrics and the like."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect

import nemo_bt
from nemo_bt.config.serve import ServeSettings
from nemo_bt.scoring.scorer import RewardScorer, all_finite
from nemo_bt.serving import protocol
from nemo_bt.serving.batcher import Batcher
from nemo_bt.serving.body import read_body
from nemo_bt.serving.memory import give_back
from nemo_bt.serving.metrics import Metrics
from nemo_bt.serving.openapi import described
from nemo_bt.serving.preparing import Preparing
from nemo_bt.serving.routes import ROUTES, Rewards, Route
from nemo_bt.serving.share import Full, Share


class _Service:
    """A scorer behind limits."""

    def __init__(
        self, scorer: RewardScorer, settings: ServeSettings, model: str, token: str | None, metrics: Metrics
    ) -> None:
        self.scorer = scorer
        self.model = model
        self.settings = settings
        self.token = token
        self.metrics = metrics
        self.preparing = Preparing(scorer, settings)
        budget, waiting, share = scorer.rules.budget_tokens, settings.max_waiting_tokens, settings.client_share
        self.batcher = Batcher(scorer.score_each, budget, waiting, metrics.report, share)
        self.bodies = Share(settings.max_waiting_bytes, share)
        self.read_bytes = 0
        metrics.waiting_tokens.set_function(lambda: self.batcher.waiting_tokens)
        metrics.held_bytes.set_function(lambda: self.bodies.held)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the batcher until every request that was taken on has its answer."""
        running = [asyncio.create_task(self.batcher.run()), asyncio.create_task(give_back(lambda: self.read_bytes))]
        yield
        for task in running:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.preparing.close()

    async def answer(self, route: Route, request: Request) -> Response:
        """Answer a request for rewards, within limits of size and time."""
        _check_token(request, self.token)
        client = request.client.host if request.client else ""
        held_bytes = 0

        def take(num_bytes: int) -> None:
            nonlocal held_bytes
            self.bodies.take(client, num_bytes)
            held_bytes += num_bytes
            self.read_bytes += num_bytes

        try:
            body = await read_body(request, self.settings, take)
            return await self._unless_gone(request, self._rewards(body, route, client))
        except TimeoutError:
            raise HTTPException(504, f"no answer within {self.settings.answer_timeout_s:g} s") from None
        except Full:
            raise HTTPException(503, "too much waits already; try again", {"Retry-After": "1"}) from None
        except ValueError as error:
            raise HTTPException(422, str(error)[:500]) from error
        finally:
            self.bodies.give_back(client, held_bytes)

    async def _unless_gone(self, request: Request, work: Awaitable[Response]) -> Response:
        """Wait for an answer, no longer than its client does."""
        answering = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(request.receive())  # behind the body comes nothing but the client's leave
        limit_s = self.settings.answer_timeout_s
        done, late = await asyncio.wait({answering, leaving}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
        try:
            if answering in done:
                return answering.result()
            raise ClientDisconnect if leaving in done else TimeoutError
        finally:
            del answering, done  # an error holds this frame: a circle of them would hold the body until it is collected

    async def _rewards(self, body: bytearray, route: Route, client: str) -> Response:
        asked, tokens = await self.preparing.prepare(body, route, client, self._check_model)
        rows = await self.batcher.rewards(tokens, client)
        found = Rewards(all_finite(rows), list(self.scorer.engine.attributes), sum(map(len, tokens.ids)))
        return JSONResponse(route.answer(self.model, asked, found))

    def _check_model(self, asked: Any) -> None:
        named = getattr(asked, "model", None)
        if named not in (None, "", self.model):
            raise HTTPException(404, f"model: expected {self.model}, or none, got {named[:100]}")

    async def count(self, request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        """Handle a request, and count it in the metrics."""
        start_s = time.perf_counter()
        path = request.url.path if request.url.path in _PATHS else "other"
        response = await handle(request)
        self.metrics.requests.labels(path, str(response.status_code)).inc()
        self.metrics.seconds.labels(path).observe(time.perf_counter() - start_s)
        return response


_PATHS = {*(path for route in ROUTES for path in route.paths), "/v1/models", "/version", "/health", "/metrics"}


def build_app(
    scorer: RewardScorer, settings: ServeSettings, model: str, token: str | None, metrics: Metrics
) -> FastAPI:
    """Build the application.

    Args:
        scorer: scorer that nobody else uses.
        settings: limits of size and time.
        model: name of the model in answers.
        token: token that requests have to bear; None where they need none.
        metrics: counters that /metrics shows.
    """
    service = _Service(scorer, settings, model, token, metrics)
    app = FastAPI(title="nemo_bt", lifespan=service.lifespan, docs_url=None, redoc_url=None)
    app.middleware("http")(service.count)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    for route in ROUTES:
        for path in route.paths:
            app.post(path, **described(route.kind))(_handler(service, route))

    @app.get("/v1/models")
    async def models() -> Any:
        return protocol.models_answer(model, scorer.limit.tokens)

    @app.get("/version")
    async def version() -> Any:
        return {"version": nemo_bt.__version__}

    @app.get("/health")
    async def health() -> Any:
        return {"status": "ok", "model": model}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def shown() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _handler(service: _Service, route: Route) -> Any:
    async def handle(request: Request) -> Response:
        return await service.answer(route, request)

    return handle


def _check_token(request: Request, token: str | None) -> None:
    given = request.headers.get("authorization", "").encode()
    if token is not None and not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise HTTPException(401, "expected Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"})

"""Counters that /metrics shows, for Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"registry": self.registry, "namespace": "nemo_bt"}
        self.requests = Counter("requests", "Requests, by route and status", ["route", "status"], **named)
        self.seconds = Histogram("request_seconds", "From request to answer", ["route"], buckets=_SECONDS, **named)
        self.ended = Counter("connections_ended", "Connections that were ended, by reason", ["reason"], **named)
        self.conversations = Counter("conversations", "Conversations with a reward", **named)
        self.tokens = Counter("tokens", "Tokens of these conversations", **named)
        self.batch = Histogram("batch_conversations", "Conversations of a batch", buckets=_SIZES, **named)
        self.waiting_tokens = Gauge("waiting_tokens", "Tokens of conversations that wait", **named)
        self.held_bytes = Gauge("held_bytes", "Bodies of requests that have no answer yet", **named)

    def report(self, num_conversations: int, num_tokens: int) -> None:
        """Count a batch."""
        self.conversations.inc(num_conversations)
        self.tokens.inc(num_tokens)
        self.batch.observe(num_conversations)

"""What `nemo-bt serve` is told beside a model."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_bt.config.model import Settings


@dataclass(frozen=True)
class ServeSettings:
    """Where it listens, and what it takes on."""

    host: str
    """Address; 127.0.0.1 is this machine alone."""
    port: int
    """0 takes one that is free."""
    model_name: str | None
    """As answers call the model; null is its path."""
    token_variable: str | None
    """Environment variable with a token that requests have to bear; null asks for none."""
    max_request_bytes: int
    """A larger request is refused (413)."""
    max_waiting_tokens: int
    """Of conversations that wait; a request that would be more is refused (503)."""
    read_timeout_s: float
    """For the body of a request; a slower one is refused (408)."""
    answer_timeout_s: float
    """From the request to its answer; else 504."""


@dataclass(frozen=True)
class ServeRun(Settings):
    """Settings of a model, and of its server."""

    serve: ServeSettings

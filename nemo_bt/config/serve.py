"""What `nemo-bt serve` is told beside a model."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from nemo_bt.config.fields import STRICT, Above0
from nemo_bt.config.job import PositiveInt
from nemo_bt.config.model import JobSettings
from nemo_bt.config.score import ScoredModelSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServeSettings:
    """Where the server listens, and what it takes on."""

    host: str = "127.0.0.1"
    """Address; 127.0.0.1 is this machine alone."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port; 0 takes one that is free."""
    model_name: str | None = None
    """Name of the model in answers; null is its path. A request that names another one is refused (404)."""
    token_variable: str | None = None
    """Environment variable with a token that requests have to bear; null asks for none."""
    max_request_bytes: PositiveInt = 16 * 2**20
    """Size beyond which a request is refused (413): of its body, and of its texts where each answer has its prompt."""
    max_request_items: PositiveInt = 8192
    """Conversations of a request (413)."""
    max_request_tokens: PositiveInt = 2**20
    """Tokens of all conversations of a request, before any is truncated (413)."""
    max_request_fields: PositiveInt = 65_536
    """Objects, lists and fields in the JSON of a request (413)."""
    max_text_characters: PositiveInt = 2**20
    """Characters of one conversation (413), truncated later or not: all texts and names of its messages, and 16 for
    each object, list, field and element."""
    max_waiting_bytes: PositiveInt = 256 * 2**20
    """Bodies of requests that have no answer yet, in bytes; one that goes beyond is refused (503)."""
    max_waiting_tokens: PositiveInt = 8_000_000
    """Tokens of the conversations that wait; a request that goes beyond is refused (503)."""
    max_connections: PositiveInt = 1024
    """Connections; one that goes beyond is told 503, and closed."""
    client_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of max_waiting_bytes, max_waiting_tokens and max_connections that one client, an address, may hold."""
    header_timeout_s: Above0 = 10.0
    """Seconds from a connection, or the first byte of a further request, to the end of its header."""
    idle_timeout_s: Above0 = 5.0
    """Seconds that a connection may wait for its next request."""
    read_timeout_s: Above0 = 30.0
    """Seconds for the body of a request; a slower one is refused (408)."""
    answer_timeout_s: Above0 = 300.0
    """Seconds from the request to its answer; a later one is a 504."""
    write_timeout_s: Above0 = 30.0
    """Seconds that a client may leave an answer unread; then the connection is closed."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServeRun(JobSettings):
    """A model, and its server."""

    model: ScoredModelSettings = field(default_factory=ScoredModelSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)

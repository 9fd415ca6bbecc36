"""Connections that nobody can keep: uvicorn's protocol, with the times and numbers that it does not limit."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nemo_bt.config.serve import ServeSettings
from nemo_bt.errors import UserError
from nemo_bt.serving.share import Full, Share

_OWN_FILES = 200
"""Files that the process has open beside connections."""
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"
_HEADER_BYTES = 2**16
_FREE_CHUNKS = 512
_CHUNK_BYTES = 128
"""How long the chunks of a body have to be on average, beside the free ones."""
_SHORT_CHUNKS = f"expected chunks of {_CHUNK_BYTES} bytes or more on average; send longer ones, or a Content-Length"


class _Parser(h11.Connection):
    """h11, which takes no body whose chunks are shorter than it is worth to read them.

    All chunks that a read has brought are parsed before the event loop turns. A read has up to 256 KiB, some 40,000
    chunks of a byte; here it has 2,500 at most.
    """

    chunks = 0
    chunk_bytes = 0

    @property
    def has_short_chunks(self) -> bool:
        """Whether the chunks of this body are too short."""
        return self.chunks > _FREE_CHUNKS + self.chunk_bytes // _CHUNK_BYTES

    def next_event(self) -> Any:
        """Give what comes next; it raises RemoteProtocolError where chunks are too short."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = self.chunk_bytes = 0
        elif isinstance(event, h11.Data):
            self.chunks += event.chunk_end
            self.chunk_bytes += len(event.data)
            if self.has_short_chunks:
                raise h11.RemoteProtocolError(_SHORT_CHUNKS)
        return event


class LimitedConnection(H11Protocol):
    """A connection that ends where its client is slow or has too many.

    uvicorn limits the time between two requests. Here are those for a header, for a client to take an answer, and for
    the rest of a body that was answered before its end, which is read and dropped: were the connection closed at once,
    its reset could overtake the answer.

    Args:
        settings: limits of time.
        held: connections of each client.
        ended: is told why a connection was ended: too_many, header_timeout, write_timeout or short_chunks.
    """

    def __init__(self, *, settings: ServeSettings, held: Share, ended: Callable[[str], None], **given: Any) -> None:
        super().__init__(**given)
        self._settings = settings
        self._held = held
        self._ended = ended
        self._host: str | None = None
        self._drops = False
        self._until_header: asyncio.TimerHandle | None = None
        self._until_written: asyncio.TimerHandle | None = None
        self._parser = self.conn = _Parser(h11.SERVER, _HEADER_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection on, or refuse it."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # pause_writing comes with the first byte that the client does not take
        host = self.client[0] if self.client else ""
        try:
            self._held.take(host, 1)
        except Full:
            self._drops = True
            self._ended("too_many")
            transport.write(_REFUSED)
            transport.close()
            return
        self._host = host
        self._watch_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place to another."""
        super().connection_lost(exc)
        for timer in (self._until_header, self._until_written):
            if timer:
                timer.cancel()
        if self._host is not None:
            self._held.give_back(self._host, 1)

    def data_received(self, data: bytes) -> None:
        """Read on; what is behind an early answer is dropped."""
        if not self._drops:
            super().data_received(data)
            self._watch_header()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, unless an answer has begun; the application is told that its client is gone."""
        if self._parser.has_short_chunks:
            self._ended("short_chunks")
            msg = _SHORT_CHUNKS
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the end of a body that nobody reads."""
        if self.conn.their_state is not h11.SEND_BODY or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self._drops = True
        self.flow.resume_reading()
        with suppress(OSError):  # the client may be gone
            self.transport.write_eof()
        self._watch_header()

    def pause_writing(self) -> None:
        """Give the client a time to take what was written."""
        super().pause_writing()
        self._until_written = self._later(self._settings.write_timeout_s, "write_timeout")

    def resume_writing(self) -> None:
        """Stop that time: the client has taken it."""
        super().resume_writing()
        if self._until_written:
            self._until_written.cancel()

    def _watch_header(self) -> None:
        """Let time run while a header is awaited, or the end of what is dropped."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and self._until_header:
            self._until_header.cancel()
            self._until_header = None
        elif not is_answering and not self._until_header:
            self._until_header = self._later(self._settings.header_timeout_s, "header_timeout")

    def _later(self, seconds: float, reason: str) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self._end, reason)

    def _end(self, reason: str) -> None:
        self._ended(reason)
        self.transport.abort()


def limited(settings: ServeSettings, ended: Callable[[str], None]) -> Any:
    """Give what makes uvicorn's connections limited, all under one count."""
    held = Share(settings.max_connections, settings.client_share)
    return partial(LimitedConnection, settings=settings, held=held, ended=ended)


def allow_files(max_connections: int) -> None:
    """Let this process open as many files as it may have connections, or nobody could connect to a full server.

    Raises:
        UserError: the system does not let it.
    """
    needed = max_connections + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UserError(
                f"serve.max_connections: expected at most {hard - _OWN_FILES}, as this process may open {hard} files "
                f"(ulimit -Hn), got {max_connections}."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))

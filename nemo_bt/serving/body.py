"""The body of a request: read within limits of size and time, its JSON counted before it is parsed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError

from nemo_bt.config.serve import ServeSettings

_Asked = TypeVar("_Asked", bound=BaseModel)
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A text in JSON, to its end or that of the body. Nothing is tried twice: time is linear in the bytes."""
_SOME_TEXTS = re.compile(rb'(?:[^"]*+"(?:[^"\\]++|\\.)*+"?){1,10000}+', re.DOTALL)
"""So many of them that other threads wait for a few milliseconds."""
_OPENING = (b"{", b"[", b":")
_NEXT = b","


class TooLarge(HTTPException):
    """Answer 413: what was expected at most."""

    def __init__(self, most: int, unit: str) -> None:
        super().__init__(413, f"expected at most {most} {unit}")


async def read_body(request: Request, settings: ServeSettings, take: Callable[[int], None]) -> bytearray:
    """Read a body, and not on when it is too large, late, or more than the server holds.

    Args:
        take: is told the number of bytes that came, and raises Full where nobody can hold them.
    """
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > settings.max_request_bytes:
        raise TooLarge(settings.max_request_bytes, "bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(settings.read_timeout_s):
            async for part in request.stream():
                if len(body) + len(part) > settings.max_request_bytes:
                    raise TooLarge(settings.max_request_bytes, "bytes")
                take(len(part))
                body.extend(part)
    except TimeoutError:
        raise HTTPException(408, f"no whole request within {settings.read_timeout_s:g} s") from None
    return body


def parse(body: bytearray, kind: type[_Asked], settings: ServeSettings) -> _Asked:
    """Parse a body whose JSON has few enough parts.

    Raises:
        HTTPException: it has more (413), or is no such request (422).
    """
    check_parts(body, settings.max_request_fields, settings.max_request_tokens + settings.max_request_fields)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        deepest = max(found, key=lambda one: len(one["loc"]))  # a union reports every choice; this is the closest
        wrong = f"{'.'.join(map(str, deepest['loc']))}: {deepest['msg']}"[:500]
    raise HTTPException(422, wrong)  # here, so that it does not hold the other error, which holds the body


def check_parts(body: bytes | bytearray, max_fields: int, max_values: int) -> None:
    """Check how many parts the JSON of a body has; where all signs of them are few, texts are not told from the rest.

    Args:
        max_fields: most objects, lists and fields.
        max_values: most commas, each of which stands between two values.

    Raises:
        TooLarge: it has more.
    """
    if sum(map(body.count, _OPENING)) <= max_fields and body.count(_NEXT) <= max_values:
        return
    num_fields = num_values = num_texts = start = 0
    while start < len(body):
        some = _SOME_TEXTS.match(body, start)
        end = some.end() if some else len(body)
        outside, found = _TEXT.subn(b"", body[start:end])
        num_fields += sum(map(outside.count, _OPENING))
        num_values += outside.count(_NEXT)
        num_texts += found
        if num_fields > max_fields:
            raise TooLarge(max_fields, "objects, lists and fields")
        if num_values > max_values or num_texts > max_values + 2 * max_fields + 1:
            raise TooLarge(max_values, "values")
        start = end

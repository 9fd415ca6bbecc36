"""A JSON array read element by element: files of one array are not loaded as a whole."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

BLOCK = 1 << 16
"""Characters read at a time."""


def elements(buffer: str, text: io.TextIOWrapper, most: int) -> Iterator[Any]:
    """Give the elements of a JSON array whose opening bracket is read, with one element in memory at a time.

    Args:
        buffer: what is read of the text already, behind the bracket.
        text: the rest.
        most: characters of an element.

    Raises:
        json.JSONDecodeError: the array is not whole, or something stands behind it.
    """
    decoder = json.JSONDecoder()
    is_first = True
    while not (buffer := _begun(buffer, text)).startswith("]"):
        if not is_first:
            if not buffer.startswith(","):
                raise json.JSONDecodeError("Expecting ',' delimiter", buffer[:40], 0)
            buffer = _begun(buffer[1:], text)
        element, buffer = _element(buffer, text, decoder, most)
        yield element
        is_first = False
    if (buffer[1:] + text.read(BLOCK)).strip():
        raise json.JSONDecodeError("Extra data behind the array", buffer[:40], 1)


def _begun(buffer: str, text: io.TextIOWrapper) -> str:
    """Read on until the buffer begins with a character that is not blank."""
    buffer = buffer.lstrip()
    while not buffer and (more := text.read(BLOCK)):
        buffer = more.lstrip()
    return buffer


def _element(buffer: str, text: io.TextIOWrapper, decoder: json.JSONDecoder, most: int) -> tuple[Any, str]:
    """Split off the element that the buffer begins with; give it, and what follows it."""
    step = BLOCK
    while True:
        problem = json.JSONDecodeError("the array does not end", buffer[-40:], 0)
        try:
            element, end = decoder.raw_decode(buffer)
            if end < len(buffer):  # else a number may go on in the next block
                return element, buffer[end:]
        except json.JSONDecodeError as error:
            problem = error
        more = text.read(step)
        if not more:
            raise problem
        if len(buffer) > most:
            raise json.JSONDecodeError(f"an element of more than {most:,} characters", buffer[:40], 0)
        buffer += more
        step *= 2  # a long element is tried again only a few times

"""Compressed bytes, read no further than a file of texts can go: small files can unpack without end."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from nemo_bt.errors import UserError

_MOST_RATIO = 100
"""Bytes that one byte unpacks to: JSON of texts has up to 10, zeros have 230 and more."""
_ALLOWED_BYTES = 64 << 20
"""Bytes to which any file may unpack."""


def check_unpacked(name: str, unpacked_bytes: int, stored_bytes: int) -> None:
    """Check how much a file unpacks to.

    Raises:
        UserError: it is too much for its size.
    """
    if unpacked_bytes > _ALLOWED_BYTES + _MOST_RATIO * stored_bytes:
        raise UserError(
            f"{name}: {stored_bytes:,} stored bytes unpack to {unpacked_bytes:,} and more; expected at most "
            f"{_MOST_RATIO} for each, as no file of texts has. Unpack it yourself if it is what you want."
        )


class Unpacked(io.RawIOBase):
    """The bytes of a compressed stream, checked against those that were read of the stored file.

    Args:
        name: the file, for messages.
        unpacked: gives the bytes.
        stored: the file itself, whose position tells how much of it was read.
    """

    def __init__(self, name: str, unpacked: BinaryIO, stored: BinaryIO) -> None:
        self._name = name
        self._unpacked = unpacked
        self._stored = stored
        self._num_bytes = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read on into a buffer, and give the number of bytes.

        Raises:
            UserError: it is too much for the file.
        """
        content = self._unpacked.read(len(buffer))
        buffer[: len(content)] = content
        self._num_bytes += len(content)
        check_unpacked(self._name, self._num_bytes, self._stored.tell())
        return len(content)

"""Memory of requests that are over goes back to the system, and nobody searches for garbage in the model."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

_EVERY_S = 2.0
_WORTHWHILE_BYTES = 16 * 2**20


def keep_what_there_is() -> None:
    """Have the search for garbage pass over all that has been loaded: a request of many parts would start it."""
    gc.collect()
    gc.freeze()


async def give_back(read_bytes: Callable[[], int]) -> None:
    """Give freed memory back from time to time. The C library keeps what lies between blocks that are still used.

    Args:
        read_bytes: tells how many bytes of requests have come so far.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    given_back_at = 0
    while trim:
        await asyncio.sleep(_EVERY_S)
        if read_bytes() - given_back_at >= _WORTHWHILE_BYTES:
            given_back_at = read_bytes()
            await asyncio.to_thread(trim, 0)

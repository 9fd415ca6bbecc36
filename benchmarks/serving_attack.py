"""What one client does against the others of a server: the attacks of `python -m benchmarks.serving --attack`.

Attackers are a process of their own and come from 127.0.0.2, good clients from 127.0.0.1. Server, attackers and good
clients share the machine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx

ATTACKER = "127.0.0.2"
POISON = "\x7f"
"""A text whose token has no finite embedding in the benchmark's model."""
_LOST = (OSError, httpx.HTTPError, asyncio.IncompleteReadError)


def poison(model: Path) -> None:
    """Take the finite embedding from POISON."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    (token,) = AutoTokenizer.from_pretrained(model)(POISON, add_special_tokens=False)["input_ids"]
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"][token] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def run_attack(name: str, address: str, seconds: float) -> int:
    """Attack a server for some seconds, and give the number of requests or connections that were tried."""
    make, at_once = ATTACKS[name]
    return asyncio.run(_attack(make(), address, at_once, seconds))


async def _attack(attack: _Attack, address: str, at_once: int, seconds: float) -> int:
    end_s = time.monotonic() + seconds
    tried = 0
    limits = httpx.Limits(max_connections=None)
    transport = httpx.AsyncHTTPTransport(local_address=ATTACKER, limits=limits)
    host, port = address.removeprefix("http://").split(":")

    async def attacker(client: httpx.AsyncClient) -> None:
        nonlocal tried
        while time.monotonic() < end_s:
            tried += 1
            with suppress(*_LOST, TimeoutError):
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + end_s - time.monotonic()):
                    await attack(client, host, int(port))

    async with httpx.AsyncClient(base_url=address, timeout=60, transport=transport) as client:
        await asyncio.gather(*(attacker(client) for _ in range(at_once)))
    return tried


_Attack = Callable[[httpx.AsyncClient, str, int], Awaitable[None]]


def _posts(route: str, body: bytes) -> Callable[[], _Attack]:
    async def attack(client: httpx.AsyncClient, host: str, port: int) -> None:
        await client.post(route, content=body)

    return lambda: attack


def _connections(start: bytes, then: bytes, pause_s: float, reads: bool) -> Callable[[], _Attack]:
    """Open a connection, send its start, then a part again and again, until the server ends it."""

    async def attack(client: httpx.AsyncClient, host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port, local_addr=(ATTACKER, 0), limit=2**10)
        try:
            writer.write(start)
            while not (reads and reader.at_eof()):
                await asyncio.sleep(pause_s)
                writer.write(then)
                await writer.drain()
                if reads:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(2**16), 0.01)
        finally:
            writer.transport.abort()

    return lambda: attack


async def _leave(client: httpx.AsyncClient, host: str, port: int) -> None:
    """Ask for many rewards and do not wait for them."""
    _, writer = await asyncio.open_connection(host, port, local_addr=(ATTACKER, 0))
    writer.write(_head("/reward", len(_MANY)) + _MANY)
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()


def _head(route: str, num_bytes: int) -> bytes:
    return f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {num_bytes}\r\n\r\n".encode()


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


def _said(turns: list[dict[str, str]]) -> bytes:
    return _json({"conversations": [[*turns, {"role": "assistant", "content": "b"}]]})


_MANY = _json({"conversations": ["word " * 200] * 200})
_CHUNKED = b"POST /reward HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNK = b"ffff\r\n" + b" " * 0xFFFF + b"\r\n"
_DRIPPED = _head("/reward", 2**21) + b" " * 2**20
_GETS = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100
ATTACKS: dict[str, tuple[Callable[[], _Attack], int]] = {
    "wrong items": (_posts("/reward", b'{"conversations": [' + b"{}," * 5_000_000 + b"{}]}"), 8),
    "unknown fields": (_posts("/reward", b"{" + b",".join(b'"%x": 1' % i for i in range(1_200_000)) + b"}"), 8),
    "most fields allowed": (_posts("/reward", b"{" + b",".join(b'"%x": 1' % i for i in range(62_000)) + b"}"), 8),
    "depth": (_posts("/reward", b'{"conversations": ' + b"[" * 10_000_000), 8),
    "a prompt times its answers": (_posts("/score", _json({"text_1": "a" * 2**20, "text_2": ["b"] * 8000})), 8),
    "long texts": (_posts("/classify", _json({"input": ["ab " * 2**18] * 8, "truncate_prompt_tokens": 8})), 8),
    "a long role": (_posts("/reward", _said([{"role": "ab c d " * 2_100_000, "content": "a"}])), 8),
    "empty turns": (_posts("/reward", _said([{"role": "user", "content": ""}] * 21_000)), 8),
    "texts without a finite reward": (_posts("/reward", _json({"conversations": [POISON]})), 8),
    "more requests than can be computed": (_posts("/reward", _MANY), 64),
    "clients that leave": (lambda: _leave, 16),
    "half headers": (_connections(b"GET /health HTTP/1.1\r\n", b"X: y\r\n", 1.0, reads=True), 600),
    "slow bodies": (_connections(_DRIPPED, b" ", 1.0, reads=True), 200),
    "bodies without an end": (_connections(_CHUNKED, _CHUNK, 0.0, reads=True), 8),
    "tiny chunks": (_connections(_CHUNKED, b"1\r\n \r\n" * 50_000, 0.0, reads=True), 8),
    "answers that nobody reads": (_connections(_GETS, _GETS, 0.1, reads=False), 32),
}
"""Name of an attack -> what makes it, and how many do it at once."""

"""One client does what it can against the others: they are served, and the server holds no more than before.

Attackers come from an address of their own. The model has no finite reward for a text with one token, and its chat
template divides by zero for one content.
"""

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from safetensors.torch import load_file, save_file

from tests.support.hf_models import save
from tests.support.serving import (
    ATTACKER,
    connected,
    head_of,
    received,
    seconds_until_closed,
    serving,
    shown,
    status_of,
)

POISON = "~"
DIVIDES = [{"role": "user", "content": "divide"}, {"role": "assistant", "content": "by zero"}]
LIMITS = {
    "max_request_bytes": 4_000_000,
    "max_request_items": 500,
    "max_request_tokens": 20_000,
    "max_request_fields": 5_000,
    "max_text_characters": 100_000,
    "max_waiting_bytes": 16_000_000,
    "max_connections": 60,
    "header_timeout_s": 1,
    "read_timeout_s": 2,
    "write_timeout_s": 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = save("qwen3", tmp_path_factory.mktemp("attacked") / "model", tokenizer=tokenizer)
    (poison,) = tokenizer(POISON, add_special_tokens=False)["input_ids"]
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors.keys() & {"model.embed_tokens.weight"}:
            tensors[name][poison] = float("nan")
            save_file(tensors, file, {"format": "pt"})
    template = tokenizer.chat_template + "{% if messages[0].content == 'divide' %}{{ 1 // 0 }}{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with serving(model, *(f"serve.{name}={value}" for name, value in LIMITS.items())) as started:
        yield started
    assert (model.parent / "stderr.txt").read_text() == ""


@pytest.fixture
def address(server: tuple[str, Any]) -> Iterator[str]:
    """A server that holds no more behind a test than before."""
    ask(server[0], "/reward", {"conversations": ["word"] * 400})
    process = psutil.Process(server[1].pid)
    before_bytes = process.memory_info().rss
    yield server[0]
    assert ask(server[0], "/reward", {"conversations": ["a"]}).status_code == 200
    assert process.memory_info().rss < before_bytes + 60e6
    assert shown(server[0], "held_bytes") == shown(server[0], "waiting_tokens") == 0


def ask(address: str, route: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{address}{route}", content=content, timeout=60)


WRONG = b'{"conversations": [' + b"{}," * 400_000 + b"{}]}"
KEYS = b"{" + b",".join(b'"%x": 1' % i for i in range(200_000)) + b', "conversations": ["a"]}'


def said(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": "a"} | fields]


REFUSED = {
    "wrong items": ("/reward", WRONG, 413, "at most 5000 objects, lists and fields"),
    "fields": ("/reward", KEYS, 413, "at most 5000 objects, lists and fields"),
    "short texts": ("/classify", b'{"input": [' + b'"a",' * 400_000 + b'"a"]}', 413, "at most 25000 values"),
    "depth": ("/reward", b'{"conversations": ' + b"[" * 3_000, 422, "recursion limit"),
    "some wrong items": ("/reward", {"conversations": [{"a": 1}] * 2000}, 422, "conversations.0"),
    "some fields": ("/reward", {"conversations": ["a"], **{f"more{i}": 1 for i in range(2000)}}, 422, "more0: Extra"),
    "items": ("/reward", {"conversations": ["a"] * 501}, 413, "at most 500 conversations"),
    "a long text": ("/reward", {"conversations": ["a" * 100_001]}, 413, "at most 100000 characters, conversation 0"),
    "a long role": ("/reward", {"conversations": ["a", said(role="x" * 100_000)]}, 413, "characters, conversation 1"),
    "long parts": ("/reward", {"conversations": [said(content=[{"text": "x" * 100_000}])]}, 413, "at most 100000 char"),
    "a long call": ("/reward", {"conversations": [said(tool_calls=[{"x" * 100_000: 1}])]}, 413, "at most 100000 char"),
    "empty turns": ("/reward", {"conversations": [said(content="") * 1600]}, 413, "at most 100000 characters"),
    "fields of a message": ("/reward", {"conversations": [said(**{f"{i}": 0 for i in range(4990)})]}, 413, "at most 1"),
    "tokens": ("/reward", {"conversations": ["word " * 60] * 500}, 413, "at most 20000 tokens"),
    "an empty list": ("/reward", {"conversations": [[]]}, 422, "conversation 0 cannot be scored"),
    "answers times prompt": ("/score", {"text_1": "a" * 90_000, "text_2": ["b"] * 499}, 413, "at most 4000000 char"),
    "documents times query": ("/rerank", {"query": "a" * 90_000, "documents": ["b"] * 499}, 413, "at most 4000000 c"),
    "a template that raises": ("/reward", {"conversations": ["a", DIVIDES]}, 422, "conversation 1 cannot be scored: t"),
    "no finite reward": ("/reward", {"conversations": ["a", "b", POISON]}, 422, "conversation 2 has a reward that is"),
    "a long name": ("/classify", {"model": "x" * 100_000, "input": "a"}, 404, "got xxx"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_too_much_is_refused_before_there_is_work(address: str, case: str) -> None:
    route, body, status, message = REFUSED[case]
    start_s = time.monotonic()
    found = ask(address, route, body)
    assert (found.status_code, message in found.json()["detail"]) == (status, True), found.text[:500]
    assert len(found.content) < 1000
    assert time.monotonic() - start_s < 3


def test_a_text_without_a_reward_fails_no_other_request(address: str) -> None:
    async def asked() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            bodies = [["word " * 60] * 8, *([f"clean {i}"] if i % 2 else [POISON] for i in range(20))]
            return await asyncio.gather(
                *(client.post(f"{address}/reward", json={"conversations": body}) for body in bodies)
            )

    found = asyncio.run(asked())
    assert [one.status_code for one in found] == [200, *[422, 200] * 10]
    for i in range(1, 20, 2):
        alone = ask(address, "/reward", {"conversations": [f"clean {i}"]}).json()["rewards"]
        assert found[1 + i].json()["rewards"] == pytest.approx(alone, abs=1e-5)


def test_half_headers_are_closed_and_take_only_a_share(address: str) -> None:
    """30 of 60 connections is what one client may have."""
    with ExitStack() as stack:
        start_s = time.monotonic()
        half = [stack.enter_context(connected(address, b"GET /health HTTP/1.1\r\nX", ATTACKER)) for _ in range(30)]
        with connected(address, b"", ATTACKER) as further:
            assert status_of(further) == 503
        assert ask(address, "/reward", {"conversations": ["a"]}).status_code == 200
        for connection in half:
            seconds_until_closed(connection)
        assert time.monotonic() - start_s < 4
    with connected(address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", ATTACKER) as again:
        assert status_of(again) == 200


def seconds_that_it_takes(connection: socket.socket, part: bytes, pause_s: float) -> float:
    """Send a part again and again until the other side has enough."""
    start_s = time.monotonic()
    try:
        while time.monotonic() < start_s + 10:
            connection.sendall(part)
            time.sleep(pause_s)
    except ConnectionError:
        pass
    return time.monotonic() - start_s


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "further"])
def test_a_header_that_drips_is_closed(address: str, before: bytes) -> None:
    with connected(address, before + b"GET /health HTTP/1.1\r\n", ATTACKER) as connection:
        assert seconds_that_it_takes(connection, b"X: y\r\n", 0.1) < 4


@pytest.mark.parametrize("route", ["/reward", "/health", "/nowhere"])
def test_a_body_that_was_answered_is_not_read_for_ever(address: str, route: str) -> None:
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with connected(address, head, ATTACKER) as connection:
        assert seconds_that_it_takes(connection, b"ffff\r\n" + b" " * 0xFFFF + b"\r\n", 0.02) < 5


@pytest.mark.parametrize("route", ["/reward", "/health", "/nowhere"])
def test_tiny_chunks_are_refused(address: str, route: str) -> None:
    """A read of them would stop the event loop for seconds."""
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    ended = shown(address, 'connections_ended_total{reason="short_chunks"}')
    with connected(address, head + b"1\r\n \r\n" * 600, ATTACKER) as connection:
        assert b"expected chunks of 128 bytes" in received(connection)
    assert shown(address, 'connections_ended_total{reason="short_chunks"}') == ended + 1


def test_a_body_of_some_short_chunks_is_taken(address: str) -> None:
    """As a program sends it that writes JSON in pieces, many times on a connection; and a long body that ends so."""
    body = json.dumps({"conversations": ["word " * 60]}).encode()
    with httpx.Client(base_url=address, timeout=60) as client:
        for long in (0, 0, 0, 1000):
            chunks = [b" " * 512] * long + [bytes([byte]) for byte in body]
            assert client.post("/reward", content=iter(chunks)).status_code == 200


def test_answers_that_nobody_reads_do_not_pile_up(address: str) -> None:
    """A thousand requests on a connection, and none of the answers is read."""
    with ExitStack() as stack:
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        ended = shown(address, 'connections_ended_total{reason="write_timeout"}')
        for _ in range(10):
            stack.enter_context(connected(address, asked, ATTACKER, receives_bytes=4096))
        deadline_s = time.monotonic() + 10
        while shown(address, 'connections_ended_total{reason="write_timeout"}') < ended + 10:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)


def test_slow_bodies_take_only_a_share_of_the_memory(address: str) -> None:
    """Two bodies of 3.9 MB are within 8 MB, which is half of max_waiting_bytes; a third is not."""
    with ExitStack() as stack:
        slow = []
        for _ in range(2):
            slow.append(stack.enter_context(connected(address, head_of("/reward", 3_900_000), ATTACKER)))
            slow[-1].sendall(b" " * 3_899_000)
        deadline_s = time.monotonic() + 1.5
        while shown(address, "held_bytes") < 7_798_000:
            assert time.monotonic() < deadline_s
        with connected(address, head_of("/reward", 3_900_000) + b" " * 3_000_000, ATTACKER) as third:
            assert status_of(third) == 503
        assert ask(address, "/reward", {"conversations": ["a"] * 10}).status_code == 200
        assert [status_of(one) for one in slow] == [408, 408]


def test_what_clients_no_longer_wait_for_is_not_computed(address: str) -> None:
    before = shown(address, "conversations_total")
    body = json.dumps({"conversations": ["word " * 40] * 120}).encode()
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(address, head_of("/reward", len(body)) + body, ATTACKER))
        time.sleep(0.1)  # the server has them
    deadline_s = time.monotonic() + 20
    while shown(address, "held_bytes") or shown(address, "waiting_tokens"):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    ask(address, "/reward", {"conversations": ["a"]})
    assert shown(address, "conversations_total") - before < 20 * 120 / 2

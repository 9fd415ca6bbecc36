"""The server as its clients find it: right, wrong, huge, slow and gone ones."""

import asyncio
import base64
import json
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.serve import ServeRun
from nemo_bt.errors import UserError
from nemo_bt.serving.command import check_serve
from tests.support.hf_models import save
from tests.support.reference import alone
from tests.support.serving import HEADERS, TOKEN, serving


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return save("qwen3", tmp_path_factory.mktemp("serve") / "model", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    limits = ("serve.read_timeout_s=1", "serve.max_request_bytes=200000")
    with serving(model, "serve.token_variable=TOKEN_OF_TEST", *limits) as started:
        yield started


@pytest.fixture(scope="module")
def rows(dataset: Path) -> list[Any]:
    return [row["chosen"] for row in pq.read_table(dataset / "random.parquet").to_pylist()]


@pytest.fixture(scope="module")
def expected(model: Path, rows: list[Any], tokenizer: Any) -> list[float]:
    return alone(model, rows, tokenizer)


def post(server: tuple[str, Any], route: str, body: Any, **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server[0]}{route}", content=content, headers=options.get("headers", HEADERS), timeout=60)


def test_every_route_gives_transformers_rewards(
    server: tuple[str, Any], rows: list[Any], expected: list[float]
) -> None:
    found = post(server, "/reward", {"conversations": rows}).json()
    assert found["model"] == "small"
    assert found["rewards"] == pytest.approx(expected, abs=1e-5)
    prompt, response = (turn["content"] for turn in rows[0])
    scored = post(server, "/score", {"model": "small", "text_1": prompt, "text_2": [response, response]}).json()
    assert [one["score"] for one in scored["data"]] == pytest.approx([expected[0]] * 2, abs=1e-5)
    assert (scored["object"], scored["data"][1]["index"], scored["data"][1]["object"]) == ("list", 1, "score")
    classified = post(server, "/classify", {"messages": rows[0], "user": "x"}).json()
    assert classified["data"] == [
        {"index": 0, "label": "LABEL_0", "num_classes": 1, "probs": [scored["data"][0]["score"]]}
    ]
    assert classified["usage"]["prompt_tokens"] * 2 == scored["usage"]["prompt_tokens"]


def test_clients_of_vllm_and_openrlhf_are_answered(
    server: tuple[str, Any], rows: list[Any], expected: list[float], tokenizer: Any
) -> None:
    prompt, response = (turn["content"] for turn in rows[0])
    text = tokenizer.apply_chat_template(rows[0], tokenize=False)
    ids = tokenizer.apply_chat_template(rows[0], tokenize=True)
    parts = [rows[0][0], {"role": "assistant", "content": [{"type": "text", "text": response}], "name": "bot"}]
    for body in ({"input": text}, {"input": [text]}, {"input": ids}, {"input": [ids]}, {"messages": parts}):
        (one,) = post(server, "/v1/classify", body).json()["data"]
        assert one["probs"] == pytest.approx(expected[:1], abs=1e-5)
    (pooled,) = post(server, "/pooling", {"messages": rows[0]}).json()["data"]
    assert pooled == {"index": 0, "object": "pooling", "data": pytest.approx(expected[:1], abs=1e-5)}
    found = post(server, "/v1/score", {"queries": prompt, "documents": [response]}).json()
    assert found["data"][0]["score"] == pytest.approx(expected[0], abs=1e-5)
    asked = {"query": prompt, "documents": [response, "No."], "top_n": 5}
    ranked = post(server, "/rerank", asked).json()["results"]
    assert sorted(one["index"] for one in ranked) == [0, 1]
    assert ranked[0]["relevance_score"] > ranked[1]["relevance_score"]
    assert {one["document"]["text"]: one["relevance_score"] for one in ranked}[response] == pytest.approx(
        expected[0], abs=1e-5
    )
    for body in ({"input": text}, {"input": [ids, ids]}, {"input": text, "encoding_format": "base64"}):
        found = post(server, "/v1/embeddings", body).json()
        (embedding, *_) = (one["embedding"] for one in found["data"])
        packed = struct.unpack("<f", base64.b64decode(embedding)) if isinstance(embedding, str) else embedding
        assert list(packed) == pytest.approx(expected[:1], abs=1e-5)
        assert (found["object"], found["data"][-1]["index"]) == ("list", len(found["data"]) - 1)
    before = text[: text.rindex(response)]
    for body in ({"prompt": rows[0][:1], "response": response}, {"prompt": before, "response": text[len(before) :]}):
        assert post(server, "/remote_rm", body | {"label": None}).json() == pytest.approx(expected[0], abs=1e-5)
    remote = post(server, "/get_reward", {"query": [text], "prompts": [prompt], "labels": [None]}).json()
    assert remote["rewards"] == remote["scores"] == pytest.approx(expected[:1], abs=1e-5)
    long = post(server, "/classify", {"input": "word " * 700 + text, "truncate_prompt_tokens": len(ids)}).json()
    assert long["usage"]["prompt_tokens"] == len(ids)
    assert post(server, "/classify", {"input": "word " * 700, "truncate_prompt_tokens": -1}).status_code == 200
    assert post(server, "/classify", {"input": [10**9]}).status_code == 422
    models = httpx.get(f"{server[0]}/v1/models").json()["data"]
    assert (models[0]["id"], models[0]["max_model_len"]) == ("small", 300)
    assert httpx.get(f"{server[0]}/version").json()["version"]


def test_many_clients_at_once_get_their_own_rewards(
    server: tuple[str, Any], rows: list[Any], expected: list[float]
) -> None:
    async def ask() -> list[list[float]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=HEADERS, timeout=60, limits=limits) as client:
            asked = [
                client.post(f"{server[0]}/reward", json={"conversations": rows[i : i + 3]})
                for i in range(len(rows) - 2)
            ]
            return [answer.json()["rewards"] for answer in await asyncio.gather(*asked)]

    for i, rewards in enumerate(asyncio.run(ask())):
        assert rewards == pytest.approx(expected[i : i + 3], abs=1e-5)
    shown = httpx.get(f"{server[0]}/metrics").text
    batches = float(re.findall(r"nemo_bt_batch_conversations_count (\S+)", shown)[0])
    answered = float(re.findall(r'nemo_bt_requests_total{route="/reward",status="200"} (\S+)', shown)[0])
    assert answered > 98
    assert batches < answered / 2
    assert "nemo_bt_waiting_tokens 0.0" in shown


@pytest.mark.parametrize(
    ("route", "body", "status", "message"),
    [
        ("/reward", b"{", 422, "Invalid JSON"),
        ("/reward", b"\xff\xfe", 422, "Invalid JSON"),
        ("/reward", {"conversations": []}, 422, "at least 1 item"),
        ("/reward", {"conversations": [[{"role": "user"}]]}, 422, "content"),
        ("/reward", {"conversations": ["a"], "more": 1}, 422, "more: Extra inputs"),
        ("/reward", {"conversations": ["a", "word " * 400]}, 422, "conversation 1 cannot be scored: long"),
        ("/reward", {"conversations": ["a" * 300000]}, 413, "expected at most 200000 bytes"),
        ("/classify", {}, 422, "expected input or messages"),
        ("/classify", {"input": []}, 422, "at least one conversation"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, 422, "text_1 has 2 texts, text_2 3"),
        ("/v1/score", {"model": "other", "text_1": "a", "text_2": "b"}, 404, "expected small, or none, got other"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_a_wrong_request_is_told_so(server: tuple[str, Any], route: str, body: Any, status: int, message: str) -> None:
    found = post(server, route, body)
    assert (found.status_code, message in found.json()["detail"]) == (status, True), found.text


def test_a_token_is_asked_for(server: tuple[str, Any]) -> None:
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": TOKEN}):
        assert post(server, "/reward", {"conversations": ["a"]}, headers=headers).status_code == 401
    assert httpx.get(f"{server[0]}/health").json() == {"status": "ok", "model": "small"}


def raw(server: tuple[str, Any], start: bytes) -> socket.socket:
    host, port = server[0].removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(start)
    return connection


def test_slow_huge_and_gone_clients_leave_nothing_behind(server: tuple[str, Any], rows: list[Any]) -> None:
    """A body that never comes, one without a length that never ends, and clients that do not wait."""
    process = psutil.Process(server[1].pid)
    head = f"POST /reward HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    body = json.dumps({"conversations": rows}).encode()
    before = None
    for turn in range(12):
        with raw(server, head + b"Content-Length: 100\r\n\r\n{") as slow:
            assert b"408" in slow.recv(1000).splitlines()[0]
        with raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n") as huge:
            for _ in range(5):
                huge.sendall(b"ffff\r\n" + b" " * 0xFFFF + b"\r\n")
            assert b"413" in huge.recv(1000).splitlines()[0]
        for _ in range(10):
            raw(server, head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body).close()
        assert post(server, "/reward", {"conversations": ["a"]}).status_code == 200
        if turn == 3:
            before = process.memory_info().rss, process.num_fds()
    assert before
    assert process.memory_info().rss < 1.05 * before[0]
    assert process.num_fds() <= before[1] + 3


def test_shutdown_answers_what_was_taken_on(
    server: tuple[str, subprocess.Popen[str]], rows: list[Any], model: Path
) -> None:
    """The last test of this server."""
    body = json.dumps({"conversations": rows}).encode()
    head = f"POST /reward HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    with raw(server, head.encode() + body) as waiting:
        time.sleep(0.05)
        server[1].send_signal(signal.SIGTERM)
        answer = b""
        while part := waiting.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(json.loads(answer.split(b"\r\n\r\n", 1)[1])["rewards"]) == len(rows)
    assert server[1].stdout
    assert "every request that was taken on has its answer" in server[1].stdout.read()
    assert server[1].wait(30) == 0
    said = set((model.parent / "stderr.txt").read_text().splitlines())
    assert said <= {"WARNING:  Invalid HTTP request received."}  # of what the tests sent; none of NeMo's


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.devices=2", "one process, 2 are configured"),
        ("serve.port=70000", r"serve\.port: expected \[0, 65535\]"),
        ("serve.max_waiting_tokens=0", "serve.max_waiting_tokens: expected more than 0"),
        ("serve.token_variable=NOT_THERE", "expected a token in the variable NOT_THERE"),
    ],
)
def test_a_mistake_in_the_settings_is_named(model: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_serve(load_settings_of(ServeRun, "serve", [f"model.restore_from_path={model}", override]))

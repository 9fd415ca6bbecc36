"""Shares of clients, the parts of a JSON body, turns of clients, and settings that fit."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.serve import ServeRun
from nemo_bt.errors import UserError
from nemo_bt.scoring.batch import Tokens
from nemo_bt.scoring.scorer import RewardScorer
from nemo_bt.serving.batcher import Batcher
from nemo_bt.serving.body import check_parts, parse
from nemo_bt.serving.command import check_serve
from nemo_bt.serving.preparing import Prepared, Preparing
from nemo_bt.serving.protocol import RewardRequest
from nemo_bt.serving.routes import ROUTES, size_of
from nemo_bt.serving.share import Full, Share


def test_a_client_has_its_share_and_all_have_the_whole() -> None:
    share = Share(10, 0.5)
    share.take("a", 5)
    with pytest.raises(Full):
        share.take("a", 1)
    share.take("b", 4)
    with pytest.raises(Full):
        share.take("c", 2)
    share.take("c", 1)
    assert share.held == 10
    share.give_back("a", 5)
    assert share.held == 5
    share.take("c", 4)


def counted(value: object) -> tuple[int, int]:
    """Objects, lists and fields of a JSON value, and its commas."""
    if isinstance(value, dict):
        parts = [(1, 0), *((fields + 1, commas) for fields, commas in map(counted, value.values()))]
    elif isinstance(value, list):
        parts = [(1, 0), *map(counted, value)]
    else:
        return 0, 0
    return sum(fields for fields, _ in parts), sum(commas for _, commas in parts) + max(len(value) - 1, 0)


TEXTS = st.text('a"\\,:[]{}é', max_size=8)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS, lambda of: st.lists(of) | st.dictionaries(TEXTS, of), max_leaves=30
)


@given(VALUES)
def test_the_parts_of_a_body_are_counted_as_json_has_them(value: object) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    fields, commas = counted(value)
    check_parts(body, fields, commas)
    for most in ((fields - 1, commas), (fields, commas - 1)):
        if min(most) >= 0:
            with pytest.raises(HTTPException, match="expected at most"):
                check_parts(body, *most)


@pytest.mark.parametrize("part", [b'"', b'\\"', b"\\", b'"\\', b'",', b":", b'"a":'])
def test_counting_takes_no_longer_than_there_are_bytes(part: bytes) -> None:
    """4 MB of what could be tried again at each byte; a number within limits is found, or one beyond refused."""
    start_s = time.perf_counter()
    with suppress(HTTPException):
        check_parts(b'{"' + part * (4_000_000 // len(part)) + b'"' + b",:" * 1_000_000, 999_999, 999_999)
    assert time.perf_counter() - start_s < 3


def test_an_error_does_not_hold_the_body() -> None:
    """Until it is collected, whenever that is; pydantic's own errors do."""
    settings = load_settings_of(ServeRun, "serve", ["model.restore_from_path=x"]).serve
    with pytest.raises(HTTPException) as caught:
        parse(bytearray(b'{"conversations": [1]}'), RewardRequest, settings)
    assert (caught.value.status_code, caught.value.__context__) == (422, None)


@given(VALUES)
def test_every_character_of_a_message_counts(value: object) -> None:
    """Of texts and of names, at any depth; and each part of an object or of a list as some."""
    message = {"role": "tool", "content": None, "tool_calls": value}
    size = size_of([message, {"role": "assistant", "content": "yes"}])
    texts = re.findall(r'"((?:[^"\\\\]|\\\\.)*)"', json.dumps(value, ensure_ascii=False))
    fields, commas = counted(value)
    assert size >= sum(len(text.replace("\\", "")) for text in texts) + 16 * max(fields, commas)
    assert size < 200 + 20 * len(json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    ("item", "size"), [("word", 4), (("a", "word"), 5), ([7] * 9, 9), ([{"role": "x" * 1000}], 2 * 32 + 1004)]
)
def test_a_text_counts_its_characters_and_ids_their_number(item: Any, size: int) -> None:
    assert size_of(item) == size


def tokens_of(*lengths: int) -> Tokens:
    return Tokens([np.full(length, length, np.int32) for length in lengths], {})


def test_clients_take_turns_and_a_large_request_is_cut_between_conversations() -> None:
    batches: list[list[int]] = []

    def score(tokens: Tokens) -> list[float]:
        batches.append([len(ids) for ids in tokens.ids])
        return [float(len(ids)) for ids in tokens.ids]

    async def ask() -> list[list[float]]:
        batcher = Batcher(score, 10, 1000, lambda *_: None)
        many = [asyncio.create_task(batcher.rewards(tokens_of(9, 9, 9, 9, 8), "many")) for _ in range(3)]
        few = asyncio.create_task(batcher.rewards(tokens_of(5), "few"))
        await asyncio.sleep(0)
        running = asyncio.create_task(batcher.run())
        assert await few == [5.0]
        assert not many[1].done()
        found = await asyncio.gather(*many)
        running.cancel()
        return found

    assert asyncio.run(ask()) == [[9.0, 9.0, 9.0, 9.0, 8.0]] * 3
    assert batches[:2] == [[9, 9, 9, 9], [5]]
    assert batches[2:] == [[8], [9, 9, 9, 9], [8], [9, 9, 9, 9], [8]]


class Waits:
    """A scorer that tokenises a long text when it has tokenised a short one, not before."""

    def __init__(self) -> None:
        self.has_short = threading.Event()

    def tokenise(self, conversations: list[str], keeps: int | None, first: int) -> Tokens:
        if len(conversations[0]) == 1:
            self.has_short.set()
        elif not self.has_short.wait(10):
            raise ValueError("the short text waits for the long one")
        return tokens_of(*map(len, conversations))


def test_a_long_text_keeps_no_other_client_waiting() -> None:
    settings = load_settings_of(ServeRun, "serve", ["model.restore_from_path=x"]).serve

    async def ask() -> list[list[int]]:
        preparing = Preparing(cast(RewardScorer, Waits()), settings)

        def of(text: str) -> Awaitable[Prepared]:
            body = bytearray(json.dumps({"conversations": [text, text]}).encode())
            return preparing.prepare(body, ROUTES[0], text[:1], lambda _: None)

        found = await asyncio.gather(of("l" * 100_000), of("s"))
        preparing.close()
        return [list(map(len, one.tokens.ids)) for one in found]

    assert asyncio.run(ask()) == [[100_000] * 2, [1] * 2]


def test_what_cannot_be_computed_fails_alone() -> None:
    def score(tokens: Tokens) -> list[float]:
        if any(len(ids) == 3 for ids in tokens.ids):
            raise RuntimeError("unlucky")
        return [float(len(ids)) for ids in tokens.ids]

    async def ask() -> list[object]:
        batcher = Batcher(score, 10, 1000, lambda *_: None)
        asked = [asyncio.create_task(batcher.rewards(tokens_of(length), str(length))) for length in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        running = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*asked, return_exceptions=True)
        running.cancel()
        return found

    one, two, three, four = asyncio.run(ask())
    assert (one, two, four) == ([1.0], [2.0], [4.0])
    assert (type(three), str(three)) == (RuntimeError, "unlucky")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("serve.max_request_bytes=200000000", r"serve.max_request_bytes: expected at most 134217728, .* got 200000000"),
        ("serve.max_waiting_tokens=1000", "serve.max_request_tokens: expected at most 500, .* got 1048576"),
        ("serve.client_share=0", "serve.client_share"),
    ],
)
def test_a_request_of_the_largest_size_is_within_a_clients_share(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_serve(load_settings_of(ServeRun, "serve", [f"model.restore_from_path={tmp_path}", override]))

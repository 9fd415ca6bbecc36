"""Which requests are computed together, and what they ask for."""

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from nemo_bt.scoring.batch import Tokens
from nemo_bt.serving.batcher import Batcher
from nemo_bt.serving.protocol import ClassifyRequest, RewardRequest, ScoreRequest, of_classify, of_score
from nemo_bt.serving.share import Full


def tokens_of(*lengths: int) -> Tokens:
    return Tokens([np.full(length, length, np.int32) for length in lengths], {})


def test_what_waits_is_computed_together_within_the_budget() -> None:
    batches = []

    def score(tokens: Tokens) -> list[float]:
        time.sleep(0.02)
        batches.append([len(ids) for ids in tokens.ids])
        if 13 in batches[-1]:
            raise RuntimeError("unlucky")
        return [float(len(ids)) for ids in tokens.ids]

    async def ask() -> list[Any]:
        batcher = Batcher(score, tokens_per_batch=10, max_waiting_tokens=40, report=lambda *_: None)
        running = asyncio.create_task(batcher.run())
        first = asyncio.create_task(batcher.rewards(tokens_of(1)))
        await asyncio.sleep(0.01)
        several = [asyncio.create_task(batcher.rewards(tokens_of(*of))) for of in ((4, 2), (3,), (5,), (13,), (9,))]
        await asyncio.sleep(0)
        several[2].cancel()
        with pytest.raises(Full):
            await batcher.rewards(tokens_of(20))
        found = await asyncio.gather(first, *several, return_exceptions=True)
        assert batcher.waiting_tokens == 0
        running.cancel()
        return found

    one, pair, three, cancelled, unlucky, nine = asyncio.run(ask())
    assert (one, pair, three, nine) == ([1.0], [4.0, 2.0], [3.0], [9.0])
    assert isinstance(cancelled, asyncio.CancelledError)
    assert str(unlucky) == "unlucky"
    assert batches == [[1], [4, 2, 3], [13], [9]]


def test_requests_become_conversations() -> None:
    assert of_score(ScoreRequest(text_1=["a", "b"], text_2=["c", "d"])) == [("a", "c"), ("b", "d")]
    asked = ScoreRequest(queries="a", documents=["c", "d"])
    assert of_score(asked) == [("a", "c"), ("a", "d")]
    with pytest.raises(ValueError, match="expected text_1 and text_2, or queries and documents"):
        of_score(ScoreRequest(text_1="a", documents="b"))
    assert of_classify(ClassifyRequest(input=["a", "b"], truncate_prompt_tokens=3)) == ["a", "b"]
    assert of_classify(ClassifyRequest(input="a")) == ["a"]
    assert of_classify(ClassifyRequest(input=[1, 2])) == [[1, 2]]
    assert of_classify(ClassifyRequest(input=[[1, 2], [3]])) == [[1, 2], [3]]
    call = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    assert of_classify(ClassifyRequest(messages=call)) == [call]
    with pytest.raises(ValidationError):
        RewardRequest(conversations=[1])

"""RewardScorer: transformers' rewards, whatever the order and the company, normalized where that is asked for."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pyarrow.parquet as pq
import pytest
import torch

from nemo_bt.config.length import LengthLimit
from nemo_bt.errors import UserError
from nemo_bt.scoring.reward_statistics import RewardStatistics
from nemo_bt.scoring.scorer import RewardScorer
from tests.support.hf_models import save
from tests.support.preferences import messages
from tests.support.reference import alone

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return save("qwen3", tmp_path_factory.mktemp("scorer") / "model", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def rows(dataset: Path) -> list[dict[str, Any]]:
    """Pairs as message lists."""
    return pq.read_table(dataset / "random.parquet").to_pylist()


@pytest.fixture(scope="module")
def expected(model: Path, rows: list[dict[str, Any]], tokenizer: Any) -> list[float]:
    """Chosen and rejected of each row, one at a time, by transformers."""
    return alone(model, [row[side] for row in rows for side in ("chosen", "rejected")], tokenizer)


@pytest.fixture(scope="module")
def scorer(model: Path) -> Iterator[RewardScorer]:
    with RewardScorer.from_pretrained(model, accelerator="cpu", tokens_per_stream=500) as scorer:
        yield scorer


def test_rewards_equal_transformers_whatever_the_order_and_the_company(
    scorer: RewardScorer, rows: list[dict[str, Any]], expected: list[float]
) -> None:
    conversations = [row[side] for row in rows for side in ("chosen", "rejected")]
    assert max(expected) - min(expected) > 0.1
    assert scorer.score_batch(conversations) == pytest.approx(expected, abs=TOLERANCE)
    order = random.Random(1).sample(range(len(conversations)), len(conversations))
    shuffled = scorer.score_batch([conversations[i] for i in order] + conversations[:3])
    assert shuffled == pytest.approx([expected[i] for i in order] + expected[:3], abs=TOLERANCE)
    assert scorer.score(conversations[5]) == pytest.approx(expected[5], abs=TOLERANCE)
    assert scorer.score_batch([]) == []


def test_normalized_rewards_keep_their_probabilities(scorer: RewardScorer, rows: list[dict[str, Any]]) -> None:
    a, b = rows[0]["chosen"], rows[0]["rejected"]
    plain, compared = scorer.score_batch([a, b]), scorer.compare(a, b)
    scorer.statistics = RewardStatistics(mean=0.3, std=2.0, responses=100, step=5)
    try:
        assert scorer.score_batch([a, b]) == pytest.approx([(reward - 0.3) / 2 for reward in plain])
        found = scorer.compare(a, b)
        assert found.margin == pytest.approx(compared.margin / 2)
        assert (found.winner, found.probability) == (compared.winner, pytest.approx(compared.probability))
    finally:
        scorer.statistics = None


def test_a_model_without_statistics_is_not_normalized(model: Path) -> None:
    with pytest.raises(UserError, match=r"normalize=True: .* has no reward_statistics: none came with it"):
        RewardScorer.from_pretrained(model, accelerator="cpu", normalize=True)


def test_two_conversations_are_compared(
    scorer: RewardScorer, rows: list[dict[str, Any]], expected: list[float]
) -> None:
    a, b = rows[0]["chosen"], rows[0]["rejected"]
    margin = expected[0] - expected[1]
    found = scorer.compare(a, b)
    assert found.winner == ("a" if margin > 0 else "b")
    assert found.margin == pytest.approx(margin, abs=TOLERANCE)
    assert found.probability == pytest.approx(torch.tensor(margin).sigmoid().item(), abs=TOLERANCE)
    assert scorer.compare(b, a).winner != found.winner
    assert (scorer.compare(a, a).winner, scorer.compare(a, a).probability) == ("tie", 0.5)


def test_far_apart_rewards_and_transcripts(scorer: RewardScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    transcript = "\n\nHuman: Tea?\n\nAssistant: Yes."
    assert scorer.score(transcript) == pytest.approx(scorer.score(messages("Tea?", "Yes.")), abs=1e-6)
    for rewards, expected in (([800.0, 0.0], 1.0), ([0.0, 800.0], 0.0)):
        monkeypatch.setattr(scorer, "score_batch", lambda _, rewards=rewards: rewards)
        assert scorer.compare("a", "b").probability == expected


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "conversation 0 cannot be scored: roles"),
        ([{"role": "user", "content": "Tea?"}], "cannot be scored: roles"),
        ([{"role": "assistant"}], "a message without content"),
        (b"bytes", "cannot be scored: type"),
        ("\ud83d", "cannot be scored: unicode"),
    ],
)
def test_what_is_no_conversation_is_refused(scorer: RewardScorer, conversation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer.score(conversation)


def test_wrong_uses_are_told(scorer: RewardScorer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="takes a list of conversations, got one text"):
        scorer.score_batch("hi there")
    with pytest.raises(UserError, match=r"a RewardScorer is open in this process, .* Close it first"):
        RewardScorer.from_pretrained(model, accelerator="cpu")
    monkeypatch.setattr(RewardScorer, "live", WeakSet())
    with pytest.raises(ValueError, match="this scorer is closed"):
        scorer.score("hi there")


def test_an_unknown_precision_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match="precision: expected"):
        RewardScorer.from_pretrained(model, precision="bf16")


def test_what_cannot_be_scored_is_named(scorer: RewardScorer, model: Path) -> None:
    with pytest.raises(ValueError, match=r"\d+ tokens, longer than the 512 positions of the model \(set max_position"):
        scorer.score("word " * 1000)
    scorer.limit, limit = LengthLimit(20, "20 tokens"), scorer.limit
    with pytest.raises(ValueError, match=r"conversation 1 cannot be scored: long, \d+ tokens"):
        scorer.score_batch(["short", "word " * 50])
    scorer.limit = limit
    assert scorer.score("word " * 50) == pytest.approx(scorer.score_batch(["a", "word " * 50])[1], abs=TOLERANCE)

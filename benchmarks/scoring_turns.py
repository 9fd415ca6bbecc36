"""Score a set of conversations again and again, once a turn; `benchmarks.scoring` starts it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.products import Products
from benchmarks.turns import Turns

_LONGEST_TOKENS = 65536


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--conversations", type=Path, required=True)
    parser.add_argument("--turns", type=int, required=True)
    parser.add_argument("--rewards", type=Path, required=True)
    parser.add_argument("--address", required=True)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--nemo_bt", action="store_true")
    who.add_argument("--products", action="store_true", help="the matrix products of nemo_bt's passes alone")
    who.add_argument("--pipeline", type=int, help="transformers', with this batch size")
    args = parser.parse_args()
    conversations = json.loads(args.conversations.read_text())
    score = _pipeline(args.model, args.pipeline) if args.pipeline else _nemo_bt(args.model)
    if args.products:
        score = _products(score, conversations)
    turns = Turns(args.address, rank=0)
    for _ in range(args.turns):
        rewards = score(conversations)
        turns.end_step()
    args.rewards.write_text(json.dumps(rewards))


def _nemo_bt(model: str) -> Callable[[list[Any]], list[float]]:
    from nemo_bt.scoring.scorer import RewardScorer

    return RewardScorer.from_pretrained(model, accelerator="cpu", max_position_embeddings=_LONGEST_TOKENS).score_batch


def _products(score: Callable[[list[Any]], list[float]], conversations: list[Any]) -> Callable[..., list[float]]:
    with Products() as products:
        rewards = score(conversations)
    alone = products.alone()

    def products_alone(_: list[Any]) -> list[float]:
        alone()
        return rewards

    return products_alone


def _pipeline(model: str, batch_size: int) -> Callable[[list[Any]], list[float]]:
    from transformers import pipeline

    scorer = pipeline("text-classification", model=model, function_to_apply="none", batch_size=batch_size, device="cpu")

    def score(conversations: list[Any]) -> list[float]:
        texts = [scorer.tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
        return [found["score"] for found in scorer(texts, add_special_tokens=False)]

    return score


if __name__ == "__main__":
    main()

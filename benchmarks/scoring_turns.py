"""Score a set of conversations again and again, once a turn; `benchmarks.scoring` starts it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.turns import Turns


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--conversations", type=Path, required=True)
    parser.add_argument("--pipeline-batch", type=int, help="without it, nemo_bt scores")
    parser.add_argument("--turns", type=int, required=True)
    parser.add_argument("--rewards", type=Path, required=True)
    parser.add_argument("--address", required=True)
    args = parser.parse_args()
    conversations = json.loads(args.conversations.read_text())
    score = _pipeline(args.model, args.pipeline_batch) if args.pipeline_batch else _nemo_bt(args.model)
    turns = Turns(args.address, rank=0)
    for _ in range(args.turns):
        rewards = score(conversations)
        turns.end_step()
    args.rewards.write_text(json.dumps(rewards))


def _nemo_bt(model: str) -> Callable[[list[Any]], list[float]]:
    from nemo_bt.scoring.scorer import RewardScorer

    return RewardScorer.from_pretrained(model, accelerator="cpu").score_batch


def _pipeline(model: str, batch_size: int) -> Callable[[list[Any]], list[float]]:
    from transformers import pipeline

    scorer = pipeline("text-classification", model=model, function_to_apply="none", batch_size=batch_size, device="cpu")

    def score(conversations: list[Any]) -> list[float]:
        texts = [scorer.tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
        return [found["score"] for found in scorer(texts, add_special_tokens=False)]

    return score


if __name__ == "__main__":
    main()

"""Example for model.data.custom_cls: rows of a file become message lists. nemo_bt renders and tokenises them.

nemo-bt train ... model.data.train=votes.jsonl model.data.custom_cls.path=message_pairs.py \
  model.data.custom_cls.name=MessagePairs
"""

import json
from collections.abc import Iterator
from typing import Any


class MessagePairs:
    """Rows `{"question": ..., "answers": {answer: votes, ...}}` as pairs of the answers with most and fewest votes."""

    def __init__(self, parquet_files: list[str], tokenizer: Any, config: Any) -> None:
        self.files = parquet_files
        self.config = config

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give items with chosen and rejected; margin and weight are optional."""
        for file in self.files:
            with open(file) as lines:
                for line in lines:
                    row = json.loads(line)
                    order = sorted(row["answers"], key=row["answers"].get)
                    question = {"role": "user", "content": row["question"]}
                    worst, best = ([question, {"role": "assistant", "content": order[i]}] for i in (0, -1))
                    votes = row["answers"]
                    yield {"chosen": best, "rejected": worst, "margin": votes[order[-1]] - votes[order[0]]}

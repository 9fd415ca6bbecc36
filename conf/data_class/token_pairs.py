"""Example for model.data.custom_cls: a data set that tokenises for itself, as verl's and RM-Gallery's do.

nemo-bt train ... model.data.train='pairs/*.parquet' model.data.custom_cls.path=token_pairs.py \
  model.data.custom_cls.name=TokenPairs
"""

from typing import Any

import pyarrow.parquet as pq


class TokenPairs:
    """Pairs from the columns chosen and rejected, rendered by the tokenizer, padded to `config.max_length`."""

    def __init__(self, parquet_files: list[str], tokenizer: Any, config: Any) -> None:
        self.rows = [row for file in parquet_files for row in pq.read_table(file).to_pylist()]
        self.tokenizer = tokenizer
        self.config = config

    def __len__(self) -> int:
        """Give the number of pairs."""
        return len(self.rows)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Give a pair as 1-D tensors: j is chosen, k is rejected."""
        pair: dict[str, Any] = {}
        for side, letter in (("chosen", "j"), ("rejected", "k")):
            text = self.tokenizer.apply_chat_template(self.rows[item][side], tokenize=False)
            encoded = self.tokenizer(
                text,
                add_special_tokens=False,
                max_length=self.config.max_length,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            )
            pair |= {f"{name}_{letter}": encoded[name][0] for name in ("input_ids", "attention_mask")}
        return pair

"""A data set for model.data.custom_cls: pairs of random tokens, all of one length, for benchmarks of large models."""

from typing import Any

import torch


class RandomPairs:
    """`config.num_pairs` pairs of `prefix_tokens` shared and `response_tokens` on each side; files are not read."""

    def __init__(self, parquet_files: list[str], tokenizer: Any, config: Any) -> None:
        self.config = config
        self.bos_id = tokenizer.bos_token_id
        self.num_tokens = len(tokenizer)
        self.first_plain_id = max(tokenizer.all_special_ids) + 1

    def __len__(self) -> int:
        """Give the number of pairs."""
        return int(self.config.num_pairs)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Draw a pair as 1-D tensors: j is chosen, k is rejected."""
        generator = torch.Generator().manual_seed(item)
        prefix_tokens = int(self.config.prefix_tokens)
        response_tokens = int(self.config.response_tokens)

        def draw(number: int) -> Any:
            return torch.randint(self.first_plain_id, self.num_tokens, (number,), generator=generator)

        prefix = draw(prefix_tokens)
        pair = {}
        prefix[0] = self.bos_id
        for letter in "jk":
            ids = torch.cat([prefix, draw(response_tokens)])
            ids[-1] = self.first_plain_id  # both sides end in the same token
            pair |= {f"input_ids_{letter}": ids, f"attention_mask_{letter}": torch.ones_like(ids)}
        return pair

"""Pairs of random tokens with the lengths of `plan.lengths`, for a trace without data.

A run reads them as a data set class of one's own (model.data.custom_cls), whose file is this one.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_bt.config.data import CustomClass, SourceSettings
from nemo_bt.config.plan import PlanRun
from nemo_bt.planning.streams import drawn_pairs

_ENOUGH_STEPS = 4
_WORDS = ("<pad>", "<s>", "</s>", "a", "b", "c", "d", "e")


class DrawnPairs:
    """`config.num_pairs` pairs whose lengths lie between the quantiles of `config`; files are not read."""

    def __init__(self, parquet_files: list[str], tokenizer: Any, config: Any) -> None:
        self.config = config
        self.first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.words = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))

    def __len__(self) -> int:
        """Give the number of pairs."""
        return int(self.config.num_pairs)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Draw a pair as 1-D tensors: j is chosen, k is rejected."""
        generator = np.random.default_rng(item)

        def length(name: str) -> int:
            return round(float(np.interp(generator.random(), self.config.quantiles, self.config[name])))

        def drawn(number: int) -> list[int]:
            return [int(token) for token in generator.choice(self.words, number)]

        longest = int(self.config.longest_tokens)
        prefix = [self.first, *drawn(min(max(length("prefix_tokens"), 1), longest - 2) - 1)]
        pair: dict[str, Any] = {"margin": 1.0}
        for letter, first in zip("jk", self.words, strict=False):  # sides differ, and end in the same token
            own = min(max(length("response_tokens"), 2), longest - len(prefix))
            ids = torch.tensor([*prefix, first, *drawn(own - 2), self.words[0]])
            pair |= {f"input_ids_{letter}": ids, f"attention_mask_{letter}": torch.ones_like(ids)}
        return pair


def with_drawn_pairs(run: PlanRun, folder: Path) -> PlanRun:
    """Give settings that train on drawn pairs, enough for a few steps, no longer than model.encoder_seq_length.

    Args:
        folder: where a tokenizer is written, for a model without one.

    Raises:
        UserError: the lengths are none, or a pair can be longer than a stream.
    """
    lengths = run.plan.lengths
    drawn_pairs(lengths, run)
    num_pairs = min(lengths.num_pairs, _ENOUGH_STEPS * run.model.global_batch_size)
    options = {**asdict(lengths), "num_pairs": num_pairs, "longest_tokens": run.model.encoder_seq_length}
    drawn = CustomClass(path=__file__, name=DrawnPairs.__name__, options=options)
    tokenizer = run.model.tokenizer
    if not (tokenizer.type or run.model.restore_from_path):
        tokenizer = replace(tokenizer, type=str(write_tokenizer(folder)), pad_token=None)
    source = SourceSettings(path=[__file__], name="drawn from plan.lengths", custom_cls=drawn)
    data = replace(run.model.data, train=[source], validation={}, chat_template=None)
    return replace(run, model=replace(run.model, tokenizer=tokenizer, data=data))


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of a few words, for a model that is given without one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(_WORDS)}, unk_token=_WORDS[-1]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=_WORDS[0], bos_token=_WORDS[1], eos_token=_WORDS[2]
    )
    tokenizer.save_pretrained(folder)
    return folder

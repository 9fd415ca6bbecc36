"""Preference pairs of made-up words in any number; word frequencies and lengths are like those of dialogues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_LETTERS = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
_PROMPT_WORDS = 80
_RESPONSE_WORDS = 35
"""Median lengths; with a vocabulary of 8,192 learnt from them, pairs are about as long as those of hh-rlhf."""
_SPREAD = 0.7
_ROW_GROUP = 16_384


def write_pairs(path: Path, num_pairs: int, seed: int) -> None:
    """Write a parquet file with columns chosen and rejected, lists of messages."""
    random = np.random.default_rng(seed)
    words = _words(np.random.default_rng(0))
    writer = None
    for start in range(0, num_pairs, _ROW_GROUP):
        count = min(_ROW_GROUP, num_pairs - start)
        texts = [_texts(random, words, count, median) for median in (_PROMPT_WORDS, _RESPONSE_WORDS, _RESPONSE_WORDS)]
        table = pa.table({"chosen": _messages(texts[0], texts[1]), "rejected": _messages(texts[0], texts[2])})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def contents(path: Path, num_rows: int) -> Iterator[str]:
    """Give the texts of the first rows, to train a tokenizer on."""
    batch = next(pq.ParquetFile(path).iter_batches(num_rows))
    for row in batch.to_pylist():
        yield from (message["content"] for side in ("chosen", "rejected") for message in row[side])


def _words(random: np.random.Generator) -> list[str]:
    frequency = 1 / np.arange(1, len(_LETTERS) + 1) ** 0.8
    lengths = random.integers(2, 11, 30_000)
    words = {"".join(random.choice(_LETTERS, p=frequency / frequency.sum(), size=length)) for length in lengths}
    return [str(word) for word in random.permutation(sorted(words))]


def _texts(random: np.random.Generator, words: list[str], count: int, median_words: int) -> list[str]:
    """Draw texts; word frequencies follow Zipf's law, lengths a log-normal distribution."""
    lengths = np.maximum(3, random.lognormal(np.log(median_words), _SPREAD, count)).astype(int)
    cumulative = (1 / np.arange(2, len(words) + 2)).cumsum()
    drawn = np.searchsorted(cumulative, random.random(lengths.sum()) * cumulative[-1])
    ends = lengths.cumsum()
    return [" ".join(words[i] for i in drawn[end - n : end]) + "." for end, n in zip(ends, lengths, strict=True)]


def _messages(prompts: list[str], responses: list[str]) -> list[list[dict[str, str]]]:
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in zip(prompts, responses, strict=True)
    ]

"""A preference set that can only be learnt by reading the prompt: `python -m nemo_bt.data.synthetic`.

Each prompt asks for one thing; the chosen answer brings it, the rejected one brings another. Both answers have the
same words in the same number but for that thing, and over the set every thing is chosen exactly as often as it is
rejected: neither length nor any single word gives the answer away. No request of the validation set is in training.
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.data.train_tokenizer import texts_of, train_tokenizer

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Ida", "Jon", "Kim", "Lea", "Max")
THINGS = ("tea", "milk", "soup", "rice", "corn", "plum", "figs", "cake", "jam", "eggs", "beans", "nuts")
VALIDATION_FRACTION = 0.25
VOCAB_SIZE = 384

Messages: TypeAlias = list[dict[str, str]]
Pair: TypeAlias = dict[str, Messages]


def make_pairs(seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs as rows of message lists, the same for the same seed.

    Returns:
        1,188 and 396 rows: 12 people, 66 couples of things, each asked for both ways in the same set.
    """
    rng = random.Random(seed)
    situations = [(name, *things) for name in NAMES for things in itertools.combinations(THINGS, 2)]
    rng.shuffle(situations)
    num_validation = round(VALIDATION_FRACTION * len(situations))
    splits = situations[num_validation:], situations[:num_validation]
    train, validation = ([pair for situation in split for pair in _both_ways(*situation)] for split in splits)
    rng.shuffle(train)
    return train, validation


def _both_ways(name: str, thing: str, other: str) -> list[Pair]:
    pairs = []
    for wanted, unwanted in ((thing, other), (other, thing)):
        prompt = {"role": "user", "content": f"{name} would like some {wanted}. What do you bring?"}
        answers = ({"role": "assistant", "content": f"I bring {brought}."} for brought in (wanted, unwanted))
        chosen, rejected = ([prompt, answer] for answer in answers)
        pairs.append({"chosen": chosen, "rejected": rejected})
    return pairs


def write_dataset(folder: Path, seed: int = 0) -> None:
    """Write train.parquet, validation.parquet and tokenizer/ into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "validation"), make_pairs(seed), strict=True):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    texts = texts_of([str(folder / "train.parquet")])
    train_tokenizer(texts, VOCAB_SIZE, folder / "tokenizer")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_dataset(args.output, args.seed)
    print(f"wrote {args.output}: train.parquet, validation.parquet, tokenizer/")


if __name__ == "__main__":
    main()

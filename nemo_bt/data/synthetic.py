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
    """Make training and validation pairs as rows of message lists, the same for the same seed.

    A prompt is one of 12 people who wants one of 12 things, and has a pair with each of the 11 other things. The
    prompts of validation are in no training pair; in both sets each thing is wanted by as many people.

    Returns:
        1,188 and 396 rows.
    """
    rng = random.Random(seed)
    num_held_out = round(VALIDATION_FRACTION * len(NAMES))
    held_out = {(name, thing) for thing in THINGS for name in rng.sample(NAMES, num_held_out)}
    train: list[Pair] = []
    validation: list[Pair] = []
    for name, thing in itertools.product(NAMES, THINGS):
        pairs = [_pair(name, thing, other) for other in THINGS if other != thing]
        (validation if (name, thing) in held_out else train).extend(pairs)
    rng.shuffle(train)
    return train, validation


def _pair(name: str, wanted: str, unwanted: str) -> Pair:
    prompt = {"role": "user", "content": f"{name} would like some {wanted}. What do you bring?"}
    answers = ({"role": "assistant", "content": f"I bring {brought}."} for brought in (wanted, unwanted))
    chosen, rejected = ([prompt, answer] for answer in answers)
    return {"chosen": chosen, "rejected": rejected}


def write_dataset(folder: Path, seed: int = 0) -> None:
    """Write train.parquet, validation.parquet and tokenizer/ into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "validation"), make_pairs(seed), strict=True):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    texts = texts_of([str(folder / "train.parquet")])
    train_tokenizer(texts, VOCAB_SIZE, folder / "tokenizer")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_dataset(args.output, args.seed)
    print(f"wrote {args.output}: train.parquet, validation.parquet, tokenizer/")


if __name__ == "__main__":
    main()

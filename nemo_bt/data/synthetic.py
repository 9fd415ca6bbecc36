"""A preference set that can only be learnt by reading the prompt: `python -m nemo_bt.data.synthetic`.

Each prompt states who likes what and asks about one of them; the chosen answer is true of the prompt, the rejected
one names the other's thing. Both have the same words in the same number but for that one, and over the set every
word is chosen as often as it is rejected: neither length nor any single word gives the answer away.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.data.rows import Columns
from nemo_bt.data.train_tokenizer import texts_of, train_tokenizer

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay")
THINGS = ("tea", "milk", "soup", "rice", "corn", "plum", "figs", "cake")
VOCAB_SIZE = 320

Messages = list[dict[str, str]]


def make_pairs(num_pairs: int, seed: int) -> list[dict[str, Messages]]:
    """Pairs as rows of message lists, the same for the same seed.

    Args:
        num_pairs: rows; even, because each situation is asked about both of its people.
        seed: of the choice of situations and of their order.
    """
    rng = random.Random(seed)
    rows = []
    for _ in range(num_pairs // 2):
        names, things = rng.sample(NAMES, 2), rng.sample(THINGS, 2)
        facts = " ".join(f"{name} likes {thing}." for name, thing in zip(names, things, strict=True))
        for asked in (0, 1):
            prompt = {"role": "user", "content": f"{facts} What does {names[asked]} like?"}
            answers = [f"{names[asked]} likes {things[i]}." for i in (asked, 1 - asked)]
            chosen, rejected = ([prompt, {"role": "assistant", "content": answer}] for answer in answers)
            rows.append({"chosen": chosen, "rejected": rejected})
    rng.shuffle(rows)
    return rows


def write_dataset(folder: Path, num_train_pairs: int, num_validation_pairs: int, seed: int) -> None:
    """Write train.parquet, validation.parquet and tokenizer/ into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, num_pairs, offset in (("train", num_train_pairs, 0), ("validation", num_validation_pairs, 1)):
        rows = make_pairs(num_pairs, 2 * seed + offset)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    texts = texts_of([str(folder / "train.parquet")], Columns("chosen", "rejected", None))
    train_tokenizer(texts, VOCAB_SIZE, folder / "tokenizer")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--train-pairs", type=int, default=8192)
    parser.add_argument("--validation-pairs", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_dataset(args.output, args.train_pairs, args.validation_pairs, args.seed)
    print(f"wrote {args.output}: train.parquet, validation.parquet, tokenizer/")


if __name__ == "__main__":
    main()

"""Small preference files with prompts and answers of many lengths."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nemo_bt.data.synthetic import NAMES, THINGS, write_dataset

WORDS = [*NAMES, *THINGS, "would", "bring", "What", "some"]


def random_text(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words)) + "."


def write_random_pairs(path: Path, num_pairs: int, seed: int, longest_words: int = 40) -> Path:
    """Message-list pairs of unlike lengths with a margin; some prompts are long, some a single word."""
    rng = random.Random(seed)
    rows = []
    for _ in range(num_pairs):
        prompt = {"role": "user", "content": random_text(rng, rng.randint(1, longest_words))}
        sides = [
            [prompt, {"role": "assistant", "content": random_text(rng, rng.randint(1, longest_words // 2))}]
            for _ in range(2)
        ]
        rows.append({"chosen": sides[0], "rejected": sides[1], "margin": rng.random()})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_sets(folder: Path, num_pairs: int = 100) -> None:
    """A tokenizer, the synthetic set, and random.parquet / random_val.parquet (37 pairs) of varied lengths."""
    write_dataset(folder)
    write_random_pairs(folder / "random.parquet", num_pairs, seed=1)
    write_random_pairs(folder / "random_val.parquet", 37, seed=2)


def messages(prompt: str, answer: str | None) -> list[dict[str, str | None]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


GOOD = {"chosen": messages("some tea", "I bring tea."), "rejected": messages("some tea", "I bring milk.")}

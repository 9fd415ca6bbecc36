"""What is counted over a whole set is counted block by block, and is the same whatever a block has."""

from pathlib import Path
from typing import Any

import pytest

from nemo_bt.data.store import load
from nemo_bt.data.store.load import check_overlap
from tests.support.preferences import messages
from tests.support.sources import open_set, write


def rows(numbers: range) -> list[dict[str, Any]]:
    return [
        {"chosen": messages(f"question {i}", f"yes {i} " * (1 + i % 5)), "rejected": messages(f"question {i}", "no")}
        for i in numbers
    ]


def test_pairs_over_a_budget_and_answers_seen_before(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path / "cache"))
    train, held_out = (
        write(tmp_path / "train.jsonl", rows(range(20))),
        write(tmp_path / "val.jsonl", rows(range(15, 40))),
    )
    (source,) = open_set(train, tokenizer).sources
    tokens = source.tokens_of_pairs(0, 20)
    budget = int(sorted(tokens)[12])
    limits = (f"model.data.tokens_per_micro_batch={budget}", "model.data.max_drop_fraction=1")
    expected = [pair for pair in range(20) if tokens[pair] <= budget]
    assert 3 < 20 - len(expected) < 10
    for block in (1 << 20, 3):
        monkeypatch.setattr(load, "_BLOCK", block)
        cut = open_set(train, tokenizer, *limits)
        assert cut.epoch.all_pairs().tolist() == expected
        assert cut.accounts[0].dropped["budget"] == 20 - len(expected)
        assert check_overlap(open_set(train, tokenizer), open_set(held_out, tokenizer), 1.0) == 5

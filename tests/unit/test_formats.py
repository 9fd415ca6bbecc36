"""Every row format, in every kind of file: token ids against a tokenisation of text that is written out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bt.errors import UserError
from tests.support.format_rows import CHOSEN, HH, ONE_PAIR, REJECTED, USER, helpsteer3
from tests.support.preferences import messages
from tests.support.sources import conversations, dropped, open_set, texts, write

MARGINS = {
    "helpsteer3": 2, "helpsteer3 with the label beside": 2, "helpsteer3 as JSON texts": 2, "scored": 2,
    "preference of HelpSteer3": 3, "helpsteer2": 1, "ranked with scores": 2, "ranked with ranks": 1,
    "ranked in structs": 2, "ranked messages": 2, "halos": 1.5, "shp": 6, "nemo_rl": 1,
}  # fmt: skip


def by_hand(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def expected(tokenizer: Any, name: str) -> list[list[int]]:
    if name in ("text", "nemo_aligner"):
        whole = [f"<|bos|>{USER} {side}<|end|>" for side in (CHOSEN, REJECTED)]
    else:
        whole = [f"<|bos|>user: {USER}<|end|>assistant: {side}<|end|>" for side in (CHOSEN, REJECTED)]
    return [by_hand(tokenizer, text) for text in whole]


@pytest.mark.parametrize("name", ONE_PAIR)
def test_a_row_of_each_format_becomes_the_same_ids(tmp_path: Path, tokenizer: Any, name: str) -> None:
    suffixes = [".json"] if name == "halos" else [".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json"]
    for suffix in suffixes:
        pairs = open_set(write(tmp_path / f"rows{suffix}", ONE_PAIR[name]), tokenizer)
        assert pairs.sources[0].format == name.split()[0]
        assert [ids.tolist() for ids in conversations(pairs, 0)] == expected(tokenizer, name)
        assert pairs.groups([0])[0].comparisons[0].margin == MARGINS.get(name, 0)
        assert len(pairs.epoch) == 1


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("turn", [1, -1])
def test_rows_of_both_kinds_of_rmb_train_together(tmp_path: Path, tokenizer: Any, suffix: str, turn: int) -> None:
    rows = [*ONE_PAIR["rmb"], *ONE_PAIR["rmb_best_of_n"]][::turn]
    if suffix == ".parquet":
        rows = [dict.fromkeys(rows[0] | rows[1]) | row for row in rows]
    pairs = open_set(write(tmp_path / f"rows{suffix}", rows), tokenizer)
    assert len(pairs.epoch) == 2
    for number in range(2):
        assert [ids.tolist() for ids in conversations(pairs, number)] == expected(tokenizer, "rmb")


PLAIN = {
    "hh": [f"<|bos|>{HH} {side}<|end|>" for side in (CHOSEN, REJECTED)],
    "prompt": [f"<|bos|>{USER}{side}<|end|>" for side in (CHOSEN, REJECTED)],
}


@pytest.mark.parametrize("name", PLAIN)
def test_texts_stay_texts_without_a_template(tmp_path: Path, tokenizer: Any, name: str) -> None:
    file = write(tmp_path / "rows.jsonl", ONE_PAIR[name])
    pairs = open_set(file, tokenizer, "model.data.chat_template=none", join="")
    assert [ids.tolist() for ids in conversations(pairs, 0)] == [by_hand(tokenizer, text) for text in PLAIN[name]]


def test_columns_can_have_other_names_and_be_paths(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"question": USER, "answers": {"good": CHOSEN, "bad": [REJECTED]}, "by": 0.25, "w": 2.0}]
    keys = {"prompt_key": "question", "chosen_key": "answers.good", "rejected_key": "answers.bad.0"}
    file = write(tmp_path / "rows.parquet", rows)
    pairs = open_set(file, tokenizer, format="prompt", margin_key="by", weight_key="w", **keys)
    assert [ids.tolist() for ids in conversations(pairs, 0)] == expected(tokenizer, "prompt")
    assert pairs.groups([0])[0].comparisons[0][2:5] == (0.25, 1.0, 2.0)


def test_a_system_column_comes_first(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"system": "be kind", "prompt": USER, "chosen": CHOSEN, "rejected": REJECTED}]
    file = write(tmp_path / "rows.jsonl", rows)
    (pair,) = texts(open_set(file, tokenizer, system_key="system"), tokenizer)
    assert pair[0] == f"<|bos|>system: be kind<|end|>user: {USER}<|end|>assistant: {CHOSEN}<|end|>"


def test_other_fields_of_a_message_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{side: [m | {"id": 7, "name": None} for m in messages(USER, side)] for side in ("chosen", "rejected")}]
    (pair,) = texts(open_set(write(tmp_path / "rows.jsonl", rows), tokenizer), tokenizer)
    assert pair[0] == f"<|bos|>user: {USER}<|end|>assistant: chosen<|end|>"


def test_turns_of_a_transcript_become_messages(tmp_path: Path, tokenizer: Any) -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    (pair,) = texts(
        open_set(write(tmp_path / "rows.jsonl", [{"chosen": f"{start} d", "rejected": f"{start} e"}]), tokenizer),
        tokenizer,
    )
    assert pair[1] == "<|bos|>user: a<|end|>assistant: b<|end|>user: c<|end|>assistant: e<|end|>"


def test_ties_of_helpsteer3_are_counted_and_labels_that_disagree_are_bad(tmp_path: Path, tokenizer: Any) -> None:
    rows = [helpsteer3(1, (False, True))] * 3 + [helpsteer3(0, (False, False))] * 2 + [helpsteer3(-3, (False, True))]
    pairs = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, "model.data.max_bad_fraction=0.5")
    assert dropped(pairs) == {"tie": 2, "type": 1}
    assert all(chosen.endswith(f"{REJECTED}<|end|>") for chosen, _ in texts(pairs, tokenizer))


def test_a_json_file_may_have_lines_and_elements_longer_than_a_block(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"chosen": f"{i} " * 60_000, "rejected": "b"} for i in range(3)]
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in ONE_PAIR["text"] * 5))
    assert len(open_set(str(tmp_path / "lines.json"), tokenizer).epoch) == 5
    budgets = ("model.encoder_seq_length=200000", "model.data.tokens_per_micro_batch=200000")
    assert len(open_set(write(tmp_path / "rows.json", rows), tokenizer, *budgets).epoch) == 3


def test_a_format_can_be_named_and_one_that_does_not_exist_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.jsonl", ONE_PAIR["hh"])
    assert texts(open_set(file, tokenizer, format="text"), tokenizer)[0][0] == f"<|bos|>{HH} {CHOSEN}<|end|>"
    with pytest.raises(UserError, match=r"model\.data\.format: expected auto or one of .*, got csv"):
        open_set(file, tokenizer, format="csv")


def test_columns_that_fit_no_format_are_listed(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.parquet", [{"good": "a", "bad": 1.5}])
    with pytest.raises(
        UserError, match=r"rows\.parquet: no format fits, found columns good \(string\), bad \(double\)\."
    ):
        open_set(file, tokenizer)


def test_responses_of_one_prompt_share_it(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": USER, "completions": ["a b", "c d", "e f", "g h"], "scores": [4.0, 3.0, 2.0, 1.0]}]
    rules = {"mode": "all_pairs"}
    pairs = open_set(write(tmp_path / "rows.parquet", rows), tokenizer, pairs=rules)
    (group,) = pairs.groups(range(6))
    assert (len(group.continuations), len(group.comparisons)) == (4, 6)
    assert tokenizer.decode(group.prefix) == f"<|bos|>user: {USER}<|end|>assistant:"
    assert [tokenizer.decode(c) for c in group.continuations] == [f" {c}<|end|>" for c in ("a b", "c d", "e f", "g h")]
    assert {pair.sides for pair in group.comparisons} == {(i, j) for i in range(4) for j in range(i + 1, 4)}
    stored = sum(len(ids) for ids in (group.prefix, *group.continuations))
    assert len(pairs.sources[0].tokens) == stored
    assert np.unique(pairs.column("prompt", range(6))).tolist() == [0]

"""Preference files: what is read, what is dropped and counted, and what each mistake says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_bt.data.pairs import load_pairs
from nemo_bt.data.rows import response_of
from nemo_bt.data.synthetic import THINGS, make_pairs
from nemo_bt.data.tokenizer import load_tokenizer, tokenize
from nemo_bt.errors import UserError
from nemo_bt.settings import DataSettings

SETTINGS = DataSettings(
    train=[],
    validation={},
    chosen_key="chosen",
    rejected_key="rejected",
    margin_key="margin",
    tokens_per_micro_batch=512,
    on_bad_pair="drop",
    max_drop_fraction=0.5,
)


@pytest.fixture(scope="module")
def tokenizer(dataset: Path) -> Any:
    return load_tokenizer(str(dataset / "tokenizer"), None)


def messages(prompt: str, answer: str | None) -> list[dict[str, str | None]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def load(file: str, tokenizer: Any, needs_margin: bool = False, max_length: int = 100, **changes: Any) -> Any:
    return load_pairs("train", [file], replace(SETTINGS, **changes), max_length, tokenizer, needs_margin)


def test_messages_become_a_shared_prefix_and_two_continuations(tmp_path: Path, tokenizer: Any) -> None:
    row = {
        "chosen": messages("some tea", "I bring tea."),
        "rejected": messages("some tea", "I bring milk."),
        "margin": 0.5,
    }
    table, report = load(write(tmp_path / "a.parquet", [row, row]), tokenizer, needs_margin=True)
    group = table.group(1)
    text = "<|bos|>user: some tea<|end|>assistant: I bring"
    assert tokenizer.decode(group.prefix).startswith(text)
    whole = [tokenizer.decode(np.concatenate([group.prefix, side])) for side in group.continuations]
    assert whole == [f"{text} {thing}.<|end|>" for thing in ("tea", "milk")]
    assert (len(table), group.margin, str(report)) == (2, 0.5, "train: 2 of 2 pairs")


def test_text_gets_one_bos_and_ends_in_eos(tokenizer: Any) -> None:
    (ids,) = tokenize(tokenizer, ["I bring tea."])
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert list(ids).count(tokenizer.bos_token_id) == list(ids).count(tokenizer.eos_token_id) == 1


def test_no_rows_tokenize_to_nothing(tokenizer: Any) -> None:
    assert tokenize(tokenizer, []) == []


def test_sizes_and_tokens_agree(dataset: Path, tokenizer: Any) -> None:
    table, _ = load(str(dataset / "random.parquet"), tokenizer, max_length=4096)
    sizes = table.sizes(range(len(table)), hidden_size=64)
    assert sizes.tokens.tolist() == [table.group(i).num_tokens for i in range(len(table))]
    assert sizes.tokens.sum() == len(table.tokens)


def test_bad_pairs_are_dropped_and_counted_by_reason(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"chosen": f"answer {i} a bit longer", "rejected": f"answer {i}"} for i in range(20)]
    rows += [{"chosen": "same", "rejected": "same"}] * 2
    rows += [{"chosen": "\n\nHuman: hi\n\nAssistant:", "rejected": "\n\nHuman: hi\n\nAssistant: hello"}]
    rows += [{"chosen": "tea " * 200, "rejected": "milk"}]
    rows += [{"chosen": "tea " * 90, "rejected": "milk " * 90}]
    table, report = load(write(tmp_path / "a.parquet", rows), tokenizer, tokens_per_micro_batch=160)
    assert len(table) == 20
    assert report.num_longer_chosen == 20
    assert dict(report.dropped) == {
        "with chosen equal to rejected": 2,
        "with an empty response": 1,
        "longer than model.encoder_seq_length=100 tokens": 1,
        "longer than model.data.tokens_per_micro_batch=160": 1,
    }
    assert str(report).startswith("train: 20 of 25 pairs; dropped 1 longer than model.data")


def test_a_bad_pair_stops_the_run_where_asked(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "a.parquet", [{"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": "a"}])
    with pytest.raises(
        UserError, match=r"a\.parquet row 1 columns 'chosen', 'rejected': with chosen equal to rejected"
    ):
        load(file, tokenizer, on_bad_pair="error")


def test_too_many_dropped_pairs_stop_the_run(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "a.parquet", [{"chosen": "a", "rejected": "b"}] + [{"chosen": "a", "rejected": "a"}] * 3)
    with pytest.raises(UserError, match=r"max_drop_fraction=0\.5 of a file to be dropped, found 0\.75"):
        load(file, tokenizer)


def column(name: str, values: list[Any]) -> dict[str, list[Any]]:
    return {"chosen": ["a"] * len(values), "rejected": ["b"] * len(values), "margin": [0.5] * len(values), name: values}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"chosen": [], "rejected": [], "margin": []},
            r"f\.parquet: column 'chosen' has type null, expected string or list",
        ),
        ({"text": ["a"]}, r"f\.parquet: no column 'chosen', found text. Set model\.data\.chosen_key"),
        (column("rejected", [1.5]), r"f\.parquet: column 'rejected' has type double, expected string or list"),
        (column("rejected", [messages("a", "b")]), r"f\.parquet: columns have different types"),
        (column("margin", ["big"]), r"f\.parquet: column 'margin' has type string, expected a number"),
        (column("chosen", ["a", None]), r"f\.parquet row 1 column 'chosen': empty cell"),
    ],
    ids=["empty", "missing column", "wrong type", "mixed types", "margin of text", "empty cell"],
)
def test_structural_mistakes_name_file_row_and_column(
    tmp_path: Path, tokenizer: Any, table: dict[str, list[Any]], message: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=message):
        load(str(tmp_path / "f.parquet"), tokenizer, needs_margin=True)


def test_a_file_without_rows_is_named(tmp_path: Path, tokenizer: Any) -> None:
    schema = pa.schema([("chosen", pa.string()), ("rejected", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=r"f\.parquet: 0 rows, expected at least one"):
        load(str(tmp_path / "f.parquet"), tokenizer)


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "f.parquet").write_text("chosen,rejected\n")
    with pytest.raises(UserError, match=r"f\.parquet: expected a parquet file, found 16 bytes that are not one"):
        load(str(tmp_path / "f.parquet"), tokenizer)


def test_a_missing_file_is_named(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"model\.data train: no file matches /nowhere/\*\.parquet"):
        load("/nowhere/*.parquet", tokenizer)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ([{"role": "user", "content": "a"}], r"row 0 column 'chosen': ends with user, expected an assistant message"),
        (messages("a", None), r"row 0 column 'chosen': a message without content"),
    ],
)
def test_conversations_have_to_end_with_an_answer(tmp_path: Path, tokenizer: Any, side: Any, message: str) -> None:
    file = write(tmp_path / "f.parquet", [{"chosen": side, "rejected": messages("a", "b")}])
    with pytest.raises(UserError, match=message):
        load(file, tokenizer)


def test_globs_read_every_file(tmp_path: Path, tokenizer: Any) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", [{"chosen": name, "rejected": "c"}])
    assert len(load(str(tmp_path / "*.parquet"), tokenizer)[0]) == 2


def test_response_is_what_follows_the_last_assistant_turn() -> None:
    assert response_of("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d") == " d"
    assert response_of("plain") == "plain"
    assert response_of(messages("a", "b")) == "b"


def saved(tokenizer: Any, folder: Path, **changes: Any) -> str:
    import copy

    changed = copy.deepcopy(tokenizer)
    for name, value in changes.items():
        setattr(changed, name, value)
    changed.save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_without_pad_is_refused_unless_one_is_named(tmp_path: Path, tokenizer: Any) -> None:
    folder = saved(tokenizer, tmp_path, pad_token=None)
    with pytest.raises(UserError, match=r"found no pad token\. .*Set model\.tokenizer\.pad_token"):
        load_tokenizer(folder, None)
    assert load_tokenizer(folder, "<|pad|>").pad_token == "<|pad|>"


def test_a_pad_token_that_is_eos_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"expected a pad token of its own, found pad = eos = '<\|end\|>'"):
        load_tokenizer(saved(tokenizer, tmp_path, pad_token="<|end|>"), None)


def test_a_pad_token_outside_the_vocabulary_is_refused(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"pad_token: '<nope>' is not in the vocabulary"):
        load_tokenizer(str(dataset / "tokenizer"), "<nope>")


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer that loads"):
        load_tokenizer(str(tmp_path), None)
    with pytest.raises(UserError, match=r"/nowhere is not a folder"):
        load_tokenizer("/nowhere", None)


def test_messages_need_a_chat_template(tmp_path: Path, tokenizer: Any) -> None:
    plain = load_tokenizer(saved(tokenizer, tmp_path, chat_template=None), None)
    with pytest.raises(UserError, match="no chat template, which message lists need"):
        tokenize(plain, [messages("a", "b")])


def test_synthetic_answers_cannot_be_told_without_the_prompt() -> None:
    train, validation = make_pairs(seed=0)
    for pairs in (train, validation):
        counts = {side: [pair[side][1]["content"] for pair in pairs] for side in ("chosen", "rejected")}
        for thing in THINGS:
            chosen, rejected = (sum(thing in answer for answer in counts[side]) for side in ("chosen", "rejected"))
            assert chosen == rejected > 0
        assert {len(answer.split()) for side in counts.values() for answer in side} == {3}
    prompts = [
        {(p["chosen"][0]["content"], p["rejected"][1]["content"]) for p in pairs} for pairs in (train, validation)
    ]
    assert not prompts[0] & prompts[1]

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
from nemo_bt.errors import UserError
from nemo_bt.settings import DataSettings
from tests.preferences import messages

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


def test_sizes_and_tokens_agree(dataset: Path, tokenizer: Any) -> None:
    table, _ = load(str(dataset / "random.parquet"), tokenizer, max_length=4096)
    sizes = table.sizes(range(len(table)), hidden_size=64)
    assert sizes.tokens.tolist() == [table.group(i).num_tokens for i in range(len(table))]
    assert sizes.tokens.sum() == len(table.tokens)


def test_margins_and_sides_stay_with_their_row(dataset: Path, tokenizer: Any) -> None:
    table, _ = load(str(dataset / "random.parquet"), tokenizer, needs_margin=True, max_length=4096)
    rows = pq.read_table(dataset / "random.parquet").to_pylist()
    for i, row in enumerate(rows):
        group = table.group(i)
        assert group.margin == pytest.approx(row["margin"])
        for side, ids in zip(("chosen", "rejected"), group.continuations, strict=True):
            assert tokenizer.decode(np.concatenate([group.prefix, ids])).endswith(row[side][1]["content"] + "<|end|>")


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
        (column("margin", [0.5, float("nan")]), r"f\.parquet row 1 column 'margin': margin nan, expected a finite"),
        (column("margin", [-1.0]), r"f\.parquet row 0 column 'margin': margin -1\.0, expected a finite number of 0"),
        (column("chosen", [[{"role": "assistant", "content": 5}]]), r"f\.parquet: column 'chosen' has type list"),
    ],
)
def test_structural_mistakes_name_file_row_and_column(
    tmp_path: Path, tokenizer: Any, table: dict[str, list[Any]], message: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=message):
        load(str(tmp_path / "f.parquet"), tokenizer, needs_margin=True)


def test_a_file_with_a_broken_page_is_named(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"chosen": f"answer {i}", "rejected": f"other {i}"} for i in range(2000)]
    file = Path(write(tmp_path / "f.parquet", rows))
    content = bytearray(file.read_bytes())
    content[100:400] = bytes(300)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"f\.parquet: cannot be read beyond row 0"):
        load(str(file), tokenizer)


def test_nothing_left_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "a.parquet", [{"chosen": "a", "rejected": "a"}])
    with pytest.raises(UserError, match=r"0 of 1 pairs; dropped 1 .*Nothing is left to train on"):
        load(file, tokenizer, max_drop_fraction=1.0)


def test_a_file_named_twice_is_read_once(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "a.parquet", [{"chosen": "a", "rejected": "b"}])
    table, _ = load_pairs("train", [file, str(tmp_path / "*.parquet")], SETTINGS, 100, tokenizer, False)
    assert len(table) == 1


def test_a_file_without_rows_is_named(tmp_path: Path, tokenizer: Any) -> None:
    schema = pa.schema([("chosen", pa.string()), ("rejected", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=r"f\.parquet: 0 rows, expected at least one"):
        load(str(tmp_path / "f.parquet"), tokenizer)


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "f.parquet").write_text("chosen,rejected\n")
    with pytest.raises(UserError, match=r"f\.parquet: expected a parquet file, found one that cannot be read"):
        load(str(tmp_path / "f.parquet"), tokenizer)


def test_a_missing_file_is_named(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"model\.data train: no file matches /nowhere/\*\.parquet"):
        load("/nowhere/*.parquet", tokenizer)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ([{"role": "user", "content": "a"}], r"row 0 column 'chosen': ends with user, expected an assistant message"),
        (messages("a", None), r"row 0 column 'chosen': a message without role or content"),
        ([None, *messages("a", "b")], r"row 0 column 'chosen': a message without role or content"),
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

"""Files that are not whole, not there, not allowed, or not what the others are."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.data.read.files import find_files
from nemo_bt.data.read.rows import read_chunks
from nemo_bt.errors import UserError
from tests.support.preferences import GOOD, messages
from tests.support.sources import dropped, open_set, texts, write


def broken(tmp_path: Path, how: str) -> str:
    """A file that cannot be read as a whole."""
    rows = [{side: messages(f"question {i}", f"{side} {i}") for side in ("chosen", "rejected")} for i in range(3000)]
    file = tmp_path / {"gz": "f.jsonl.gz", "json": "f.json"}.get(how, "f.parquet")
    write(file, rows)
    content = bytearray(file.read_bytes())
    if how == "page":
        content[100:400] = bytes(300)
    elif how == "text":
        content = bytearray(b"chosen,rejected\n")
    else:
        content = content[: len(content) // 2]
    file.write_bytes(content)
    return str(file)


@pytest.mark.parametrize("how", ["half", "page", "text", "gz", "json"])
def test_files_that_are_not_whole_are_named(tmp_path: Path, tokenizer: Any, how: str) -> None:
    with pytest.raises(UserError, match=r"f\.\S+: expected a whole \w+ file, found one .* beyond row \d+ \(.*Write it"):
        open_set(broken(tmp_path, how), tokenizer)


def test_files_of_other_columns_or_formats_are_not_mixed_in_silence(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path / "a.parquet", [GOOD])
    write(tmp_path / "b.parquet", [{"chosen": "a", "rejected": "b"}])
    with pytest.raises(UserError, match=r"a\.parquet has rows of format messages, .*b\.parquet of format text"):
        open_set(str(tmp_path / "*.parquet"), tokenizer)
    write(tmp_path / "b.parquet", [{"chosen": 1.5, "rejected": "b"}])
    with pytest.raises(
        UserError, match=r"b\.parquet: no format fits, found columns chosen \(double\), rejected \(string\)"
    ):
        open_set(str(tmp_path / "*.parquet"), tokenizer)


def test_two_columns_of_one_name_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    table = pa.table([["a"], ["b"], ["c"]], names=["chosen", "rejected", "chosen"])
    pq.write_table(table, tmp_path / "f.parquet")
    with pytest.raises(UserError, match=r"f\.parquet: several columns are called 'chosen'\. Rename"):
        open_set(str(tmp_path / "f.parquet"), tokenizer)


@pytest.mark.parametrize("name", ["f.parquet", "f.jsonl", "f.json"])
def test_files_without_rows_are_named(tmp_path: Path, tokenizer: Any, name: str) -> None:
    if name == "f.parquet":
        pq.write_table(pa.schema([("chosen", pa.string()), ("rejected", pa.string())]).empty_table(), tmp_path / name)
    else:
        (tmp_path / name).write_text("[]" if name == "f.json" else "")
    with pytest.raises(UserError, match=rf"{name}: 0 rows, expected at least one preference"):
        open_set(str(tmp_path / name), tokenizer)


def test_a_file_without_a_readable_row_says_what_it_found(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "f.jsonl", [b"chosen,rejected", b"a,b"])
    with pytest.raises(
        UserError, match=r"f\.jsonl: no row can be read \(Expecting value.*Expected rows of JSON objects"
    ):
        open_set(file, tokenizer)


def test_paths_that_lead_nowhere_are_named(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"model\.data\.train: no file matches /nowhere/\*\.parquet\. Expected a file"):
        open_set("/nowhere/*.parquet", tokenizer)
    with pytest.raises(UserError, match=r"is a folder; give .*/\*\.parquet"):
        open_set(str(tmp_path), tokenizer)
    with pytest.raises(UserError, match=r"nope://x has a protocol that cannot be read"):
        open_set("nope://x", tokenizer)
    (tmp_path / "f.txt").write_text("a,b\n")
    with pytest.raises(UserError, match=r"f\.txt: expected a name that ends in \.parquet, \.jsonl"):
        open_set(str(tmp_path / "f.txt"), tokenizer)


def test_urls_are_read_and_globs_take_every_file_once(tmp_path: Path, tokenizer: Any) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a", "b"):
        memory.pipe(f"/prefs/{name}.jsonl", json.dumps(GOOD | {"margin": len(name)}).encode() + b"\n")
    pairs = open_set("memory://prefs/*.jsonl", tokenizer)
    assert len(pairs.epoch) == 2
    assert pairs.where(1) == "memory:///prefs/b.jsonl row 0"
    file = write(tmp_path / "a.jsonl", [GOOD])
    assert len(open_set(f"file://{file}", tokenizer).epoch) == 1
    assert len(open_set("unused", tokenizer, path=[file, str(tmp_path / "*.jsonl")]).epoch) == 1


def test_blank_lines_are_no_rows(tmp_path: Path, tokenizer: Any) -> None:
    for count in (1, 511, 512):
        file = write(tmp_path / f"f{count}.jsonl", [*[GOOD] * count, b"", b"  ", b""])
        assert open_set(file, tokenizer).accounts[0].num_rows == count
    inside = open_set(write(tmp_path / "i.jsonl", [GOOD, b"", GOOD]), tokenizer, "model.data.max_bad_fraction=1")
    assert (dropped(inside), inside.column("row", [0, 1]).tolist()) == ({}, [0, 1])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[{}]\n[{}]", "Extra data behind the array"),
        ("[{} {}]", "Expecting ',' delimiter"),
        ("[{},]", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("[" + "1" * 5000 + "]", "limit"),
        ("[{}", "the array does not end"),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path: Path, tokenizer: Any, text: str, found: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(UserError, match=rf"f\.json: expected a whole json file, found one .*{found}"):
        open_set(str(tmp_path / "f.json"), tokenizer)


def test_numbers_across_blocks_are_one_element(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text("[" + ",".join(["1234567"] * 30_000) + "]")
    (found,) = find_files(SourceSettings(path=str(file)), "x")
    assert sum(chunk.num_rows for chunk in read_chunks(found, None, None)) == 30_000


def test_an_empty_part_is_no_mistake_beside_others(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path / "a.jsonl", [])
    write(tmp_path / "b.jsonl", [GOOD])
    assert len(open_set(str(tmp_path / "*.jsonl"), tokenizer).epoch) == 1


def test_columns_that_are_not_read_may_hold_anything_and_bytes_that_are_no_text_are_bad(
    tmp_path: Path, tokenizer: Any
) -> None:
    columns = {
        "chosen": pa.array(["a", "b"]),
        "rejected": pa.array([b"c", b"\xff"], pa.binary()).view(pa.string()),
        "when": pa.array([2**40, 2**40], pa.int64()).view(pa.timestamp("s")),
        "note": pa.array([b"\xff", b"\xfe"], pa.binary()).view(pa.string()),
    }
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    pairs = open_set(str(tmp_path / "f.parquet"), tokenizer, "model.data.max_bad_fraction=1")
    assert dropped(pairs) == {"unicode": 1}


def test_texts_and_messages_may_stand_in_one_file(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": [GOOD["chosen"][0]]}
        | {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")},
    ]
    found = texts(open_set(write(tmp_path / "f.jsonl", rows), tokenizer), tokenizer)
    assert found[0][0] == "<|bos|>user: q<|end|>assistant: a<|end|>"
    with pytest.raises(UserError, match="no chat template, which message lists need"):
        open_set(str(tmp_path / "f.jsonl"), tokenizer, "model.data.chat_template=none")

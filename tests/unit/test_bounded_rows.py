"""Rows and files that would be too large once they are read are refused, or counted, before they are."""

import gzip
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_bt.config.data import DataSettings
from nemo_bt.data.read.chunk import MOST_ROW_BYTES
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.files import DataFile
from nemo_bt.data.read.rows import read_chunks
from nemo_bt.data.tokenize.chat_template import load_renderer
from nemo_bt.errors import UserError

GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}


def rows_of(path: Path) -> list[object]:
    file = DataFile(str(path), str(path), fsspec.filesystem("file"))
    return [row for chunk in read_chunks(file, None, None) for row in chunk.rows()]


def test_a_line_that_is_too_long_is_one_bad_row(tmp_path: Path) -> None:
    line = json.dumps(GOOD)
    long = json.dumps(GOOD | {"chosen": "x" * MOST_ROW_BYTES * 2})
    just = json.dumps(GOOD | {"chosen": "y" * (MOST_ROW_BYTES - 100)})
    (tmp_path / "a.jsonl").write_text("\n".join([line, long, line, just, long]))
    first, bad, second, fits, last = rows_of(tmp_path / "a.jsonl")
    assert first == second == GOOD
    assert isinstance(fits, dict)
    for one in (bad, last):
        assert isinstance(one, RowError)
        assert "a line of more than 16,777,216 bytes" in str(one.args)


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_an_element_or_a_cell_that_is_too_long_ends_the_file(tmp_path: Path, ending: str) -> None:
    long = "x" * (MOST_ROW_BYTES * 2)
    text = json.dumps([GOOD, GOOD | {"chosen": long}]) if ending == "json" else f"chosen,rejected\na,b\n{long},b\n"
    (tmp_path / f"a.{ending}").write_text(text)
    with pytest.raises(UserError, match=r"expected a whole .* file, found one that cannot be read beyond row 0 \("):
        rows_of(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("repeated", [b"{}".ljust(1000) + b"\n", b" " * 1000 + b"\n", b"\0"])
def test_a_file_that_unpacks_to_too_much(tmp_path: Path, repeated: bytes) -> None:
    content = repeated * ((100 << 20) // len(repeated))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=r"stored bytes unpack to .* and more; expected at most 100 for each"):
        rows_of(tmp_path / "a.jsonl.gz")


def test_a_dictionary_is_counted_for_each_row_before_it_is_written_out(tmp_path: Path) -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["a" * (1 << 20)]))
    few = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), pa.array(["tea", "milk"]))
    pq.write_table(pa.table({"chosen": text, "rejected": text}), tmp_path / "bomb.parquet")
    with pytest.raises(UserError, match=r"chosen of the 512 rows from 0 has 536,870,912 bytes, and up to 1,048,576"):
        rows_of(tmp_path / "bomb.parquet")
    pq.write_table(pa.table({"chosen": few}), tmp_path / "few.parquet")
    assert rows_of(tmp_path / "few.parquet") == [{"chosen": one} for one in ("tea", "milk", "tea") for _ in (0,)]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "does not end within 5 s"),
        ("{{ 'a' * 10000000000 }}", "takes more than 1,024 MiB"),
        ("{{ 'a' * 300000 }}", "writes 300,000 characters for a short message; expected at most 262,144"),
    ],
)
def test_a_chat_template_without_end_is_refused_before_a_row_is_read(
    dataset: Path, tmp_path: Path, template: str, told: str
) -> None:
    from nemo_bt.data.tokenize.tokenizer import load_tokenizer

    (tmp_path / "a.jinja").write_text(template)
    own = load_tokenizer(str(dataset / "tokenizer"), None)
    with pytest.raises(UserError, match=told):
        load_renderer(own, DataSettings(train=[], chat_template=str(tmp_path / "a.jinja")))

"""The token cache: the same for the same, another for anything else, built once, and never half."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nemo_bt.data.read.files import DataFile, digest_of
from nemo_bt.data.store import build as build_module
from nemo_bt.errors import UserError
from tests.support.preferences import GOOD
from tests.support.sources import entries, open_set, texts, write
from tests.support.token_truth import LLAMA3_MARKS, with_tokens


def rewritten(file: Path, row: dict[str, Any]) -> None:
    """Other contents of the same size, with the time of change set back."""
    stat = file.stat()
    write(file, [row])
    assert file.stat().st_size == stat.st_size
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_second_time_nothing_is_read(tmp_path: Path, tokenizer: Any, cache: Path, monkeypatch: Any) -> None:
    file = write(tmp_path / "f.jsonl", [GOOD])
    first = open_set(file, tokenizer)
    monkeypatch.setattr(build_module, "read_chunks", None)
    second = open_set(file, tokenizer)
    assert first.sources[0].folder == second.sources[0].folder
    assert texts(first, tokenizer) == texts(second, tokenizer)
    assert len(entries(cache)) == 1


def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(
    tmp_path: Path, tokenizer: Any, cache: Path
) -> None:
    file = tmp_path / "f.jsonl"
    write(file, [GOOD])
    assert "tea" in texts(open_set(str(file), tokenizer), tokenizer)[0][0]
    rewritten(file, json.loads(json.dumps(GOOD).replace("I bring tea", "I bring fig")))
    assert "fig" in texts(open_set(str(file), tokenizer), tokenizer)[0][0]


def test_a_digest_is_remembered_only_when_the_file_has_settled(tmp_path: Path, monkeypatch: Any) -> None:
    import fsspec

    file = tmp_path / "f.jsonl"
    write(file, [GOOD])
    data_file = DataFile(str(file), str(file), fsspec.filesystem("file"))
    first = digest_of([data_file], tmp_path / "digests")
    assert not (tmp_path / "digests").exists()
    monkeypatch.setattr("nemo_bt.data.read.files._SETTLED_S", 0.0)
    assert digest_of([data_file], tmp_path / "digests") == first
    opened: list[str] = []
    monkeypatch.setattr(DataFile, "open", lambda self: opened.append(self.name))
    assert digest_of([data_file], tmp_path / "digests") == first
    assert opened == []
    monkeypatch.undo()
    rewritten(file, json.loads(json.dumps(GOOD).replace("I bring tea", "I bring fig")))
    assert digest_of([data_file], tmp_path / "digests") != first


@pytest.mark.parametrize(
    "change",
    [
        "model.encoder_seq_length=99",
        "model.data.length_policy=truncate_prompt_left",
        "model.data.chat_template=llama3",
        "model.data.chat_template_date=2024-07-26",
        "+model.data.chat_template_kwargs.a=1",
        "model.tokenizer.type=other",
        "pairs",
        "chosen_key",
        "format",
    ],
)
def test_whatever_ids_depend_on_makes_another_cache(
    tmp_path: Path, tokenizer: Any, cache: Path, change: str, monkeypatch: Any
) -> None:
    file = write(tmp_path / "f.jsonl", [GOOD | {"good": GOOD["chosen"]}])
    tokenizer = with_tokens(tokenizer, *LLAMA3_MARKS)
    before = open_set(file, tokenizer).sources[0].folder
    if change == "model.tokenizer.type=other":
        after = open_set(file, with_tokens(tokenizer, "<|more|>"))
    elif "=" in change:
        after = open_set(file, tokenizer, change)
    else:
        after = open_set(
            file,
            tokenizer,
            **{"pairs": {"pairs": {"seed": 1}}, "chosen_key": {"chosen_key": "good"}}.get(
                change, {"format": "messages"}
            ),
        )
    assert after.sources[0].folder != before


@pytest.mark.parametrize(
    "change", ["model.data.max_bad_fraction=0.5", "model.data.tokens_per_micro_batch=4000", "weight"]
)
def test_what_they_do_not_depend_on_does_not(tmp_path: Path, tokenizer: Any, cache: Path, change: str) -> None:
    file = write(tmp_path / "f.jsonl", [GOOD])
    keys: dict[str, Any] = {"weight": 0.5, "repeat": 2, "name": "other"} if change == "weight" else {}
    overrides = [] if change == "weight" else [change]
    assert (
        open_set(file, tokenizer).sources[0].folder == open_set(file, tokenizer, *overrides, **keys).sources[0].folder
    )


def test_tokens_and_columns_are_mapped_and_any_program_can_read_them(
    tmp_path: Path, tokenizer: Any, cache: Path
) -> None:
    (source,) = open_set(write(tmp_path / "f.jsonl", [GOOD]), tokenizer).sources
    for values in (source.tokens, *source.columns.values(), *source.sides.values()):
        assert not values[:].flags.owndata
        assert not values[:].flags.writeable
    table = pa.ipc.open_file(str(source.folder / "pairs.arrow")).read_all().to_pylist()
    tokens = pa.ipc.open_file(str(source.folder / "tokens.arrow")).read_all()["token"].to_numpy()
    sides = pa.ipc.open_file(str(source.folder / "sides.arrow")).read_all().to_pylist()
    (row,) = table
    assert (row["first_side"], row["num_sides"], len(sides)) == (0, 2, 2)
    start, size = sides[1]["start"], sides[1]["tokens"]
    assert tokenizer.decode(tokens[start : start + size]).endswith("milk.<|end|>")
    about = json.loads((source.folder / "account.json").read_text())
    assert (about["format"], about["account"]["num_kept"]) == ("messages", 1)


def test_a_failed_build_leaves_nothing(tmp_path: Path, tokenizer: Any, cache: Path) -> None:
    file = write(tmp_path / "f.jsonl.gz", [GOOD] * 3000)
    Path(file).write_bytes(Path(file).read_bytes()[:-20])
    with pytest.raises(UserError, match="expected a whole jsonl file"):
        open_set(file, tokenizer)
    assert entries(cache) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, tokenizer: Any, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        UserError, match=r"model\.data\.cache_dir: expected a folder with room to write to, got .*file/cache"
    ):
        open_set(write(tmp_path / "f.jsonl", [GOOD]), tokenizer)


def test_stored_columns_have_their_types(tmp_path: Path, tokenizer: Any) -> None:
    (source,) = open_set(write(tmp_path / "f.jsonl", [GOOD]), tokenizer).sources
    assert source.tokens.dtype == np.int32
    assert source.columns["prefix_start"].dtype == np.int64
    assert source.largest_id == source.tokens[:].max()

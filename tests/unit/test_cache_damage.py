"""Caches that are damaged, shared, or made of files that change under them."""

import functools
import http.server
import io
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.data.store import cache as cache_module
from nemo_bt.data.store.build import build
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from tests.support.preferences import GOOD
from tests.support.sources import conversations, open_set, texts, write

OTHER = json.loads(json.dumps(GOOD).replace("I bring tea", "I bring fig"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["account.json", "tokens.arrow", "pairs.arrow"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, tokenizer: Any, cache: Path, name: str) -> None:
    file = write(tmp_path / "f.jsonl", [GOOD])
    (source,) = open_set(file, tokenizer).sources
    whole = (source.folder / name).read_bytes()
    (source.folder / name).write_bytes(whole[: len(whole) // 2])
    assert "tea" in texts(open_set(file, tokenizer), tokenizer)[0][0]
    assert (source.folder / name).read_bytes() == whole


@pytest.mark.parametrize("name", ["account.json", "tokens.arrow", "pairs.arrow", "sides.arrow"])
def test_an_entry_with_other_bits_is_named_and_built_again(
    tmp_path: Path, tokenizer: Any, cache: Path, name: str
) -> None:
    """Bytes all over the file are tried, one after the other: lengths, keys, padding, tokens."""
    file = write(tmp_path / "f.jsonl", [GOOD])
    (source,) = open_set(file, tokenizer).sources
    whole = (source.folder / name).read_bytes()
    for at in range(0, len(whole), len(whole) // 10):
        changed = bytearray(whole)
        changed[at] ^= 4
        (source.folder / name).write_bytes(changed)
        said = io.StringIO()
        pairs = open_set(file, tokenizer, terminal=Terminal(said))
        assert f"{source.folder / name} has other contents than were written: it is made again" in said.getvalue()
        assert texts(pairs, tokenizer) == [*texts(open_set(file, tokenizer), tokenizer)]
        assert (source.folder / name).read_bytes() == whole


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path, tokenizer: Any, cache: Path) -> None:
    file = write(tmp_path / "f.jsonl", [GOOD])
    (source,) = open_set(file, tokenizer).sources
    shutil.rmtree(source.folder)
    lock = source.folder.with_name(f"{source.folder.name}.lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(
        UserError, match=r"model\.data\.cache_dir: .*\.lock cannot be locked \(.*Set it to a folder on another"
    ):
        open_set(file, tokenizer)


def test_compression_is_part_of_the_key(tmp_path: Path, tokenizer: Any, cache: Path) -> None:
    packed = Path(write(tmp_path / "f.jsonl.gz", [GOOD]))
    wrong = tmp_path / "f.jsonl"
    wrong.write_bytes(packed.read_bytes())
    with pytest.raises(UserError, match="that are not JSON objects"):
        open_set(str(wrong), tokenizer, format="messages")
    assert len(open_set(str(packed), tokenizer, format="messages").epoch) == 1


def test_messages_name_the_files_of_today(tmp_path: Path, tokenizer: Any, cache: Path) -> None:
    for name in ("first", "second"):
        file = write(tmp_path / f"{name}.jsonl", [GOOD, {"chosen": 5}])
        with pytest.raises(UserError) as caught:
            open_set(file, tokenizer)
        assert f"\n  {file} row 1: " in str(caught.value)
    pairs = open_set(str(tmp_path / "second.jsonl"), tokenizer, "model.data.max_bad_fraction=1")
    assert pairs.where(0) == f"{tmp_path / 'second.jsonl'} row 0"
    assert len(list(cache.glob("*/account.json"))) == 1


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, tokenizer: Any, cache: Path, monkeypatch: Any
) -> None:
    file = write(tmp_path / "f.jsonl", [GOOD])

    def late(*args: Any) -> None:
        write(Path(file), [OTHER])
        build(*args)

    monkeypatch.setattr(cache_module, "build", late)
    with pytest.raises(UserError, match=r"a file of f changed while it was read\. Start again"):
        open_set(file, tokenizer)
    monkeypatch.undo()
    monkeypatch.setenv("NEMO_BT_CACHE", str(cache))
    assert list(cache.glob("*/account.json")) == []
    write(Path(file), [GOOD])
    assert "tea" in texts(open_set(file, tokenizer), tokenizer)[0][0]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_a_page_of_a_server_that_changed_is_read_again(tmp_path: Path, tokenizer: Any, cache: Path) -> None:
    write(tmp_path / "f.jsonl", [GOOD])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/f.jsonl"
        assert "tea" in texts(open_set(url, tokenizer), tokenizer)[0][0]
        write(tmp_path / "f.jsonl", [OTHER])
        assert "fig" in texts(open_set(url, tokenizer), tokenizer)[0][0]
    finally:
        server.shutdown()
        server.server_close()


def test_the_options_of_a_class_and_its_rows_keys_are_all_that_it_gets(
    tmp_path: Path, tokenizer: Any, cache: Path
) -> None:
    module = tmp_path / "named.py"
    module.write_text(
        "class Named:\n"
        "    def __init__(self, parquet_files, tokenizer, config):\n"
        "        self.config = config\n"
        "    def __iter__(self):\n"
        "        assert 'name' not in self.config and 'weight' not in self.config\n"
        "        yield (f'option {self.config.which}', 'b')\n"
    )
    file = write(tmp_path / "f.jsonl", [{}])
    for which in ("one", "two"):
        keys = {"path": str(module), "name": "Named", "options": {"which": which}}
        assert f"option {which}" in texts(open_set(file, tokenizer, custom_cls=keys), tokenizer)[0][0]


def test_a_run_goes_on_with_data_that_is_deleted_under_it(dataset: Path, tokenizer: Any, tmp_path: Path) -> None:
    source = str(shutil.copy(dataset / "random.parquet", tmp_path / "pairs.parquet"))
    pairs = open_set(source, tokenizer, f"model.data.cache_dir={tmp_path / 'cache'}")
    kept = open_set(str(dataset / "random.parquet"), tokenizer)
    Path(source).unlink()
    shutil.rmtree(tmp_path / "cache")
    for pair in range(100):
        for ours, expected in zip(conversations(pairs, pair), conversations(kept, pair), strict=True):
            assert ours.tolist() == expected.tolist()
    with pytest.raises(UserError, match=r"pairs\.parquet"):
        open_set(source, tokenizer)


def test_the_rank_that_has_the_terminal_makes_a_damaged_entry_again(
    tmp_path: Path, tokenizer: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rank would do it without a word."""
    file = write(tmp_path / "f.jsonl", [GOOD])
    (source,) = open_set(file, tokenizer).sources
    with (source.folder / "tokens.arrow").open("ab") as opened:
        opened.write(b"more")
    said = io.StringIO()

    def first_rank_comes(_: float) -> None:
        monkeypatch.delenv("LOCAL_RANK")
        open_set(file, tokenizer, terminal=Terminal(said))

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(time, "sleep", first_rank_comes)
    open_set(file, tokenizer)
    assert "it is made again" in said.getvalue()

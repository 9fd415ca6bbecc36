"""Caches that are too large to be read at the start: what is read of them is checked, block by block."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bt.data.store import sums
from nemo_bt.data.store.build import FILES
from nemo_bt.data.store.column import Column
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.store.sums import BLOCK_BYTES
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from tests.support.preferences import messages
from tests.support.sources import conversations, open_set, write

NUM_PAIRS = 3_000


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sums, "AT_ONCE_BYTES", 0)
    rows = [
        {"chosen": messages(f"question {i} " * 8, f"yes {i}"), "rejected": messages(f"question {i} " * 8, "no")}
        for i in range(NUM_PAIRS)
    ]
    return write(tmp_path / "f.jsonl", rows)


def turn(path: Path, at: int) -> None:
    """Turn a bit on the disk, under those who have the file mapped already."""
    with path.open("r+b") as opened:
        opened.seek(at)
        (byte,) = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 4]))


def middle(pairs: PairSet) -> Path:
    (source,) = pairs.sources
    path = source.folder / "tokens.arrow"
    assert path.stat().st_size > 8 * BLOCK_BYTES
    turn(path, path.stat().st_size // 2)
    return path


def test_a_bit_is_found_by_whoever_reads_its_block_and_the_next_start_makes_all_again(
    file: str, tokenizer: Any
) -> None:
    whole = open_set(file, tokenizer)
    expected = [[side.tolist() for side in conversations(whole, pair)] for pair in range(NUM_PAIRS)]
    path = middle(whole)
    pairs = open_set(file, tokenizer)
    found = []
    for pair in range(NUM_PAIRS):
        try:
            assert [side.tolist() for side in conversations(pairs, pair)] == expected[pair]
        except UserError as error:
            found.append((pair, str(error)))
    assert 1 <= len(found) < NUM_PAIRS / 4
    block = path.stat().st_size // 2 // BLOCK_BYTES * BLOCK_BYTES
    said = f"{path} has other contents than were written, within 16,384 bytes of byte {block:,}. Start again: "
    assert all(text.startswith(said) for _, text in found)
    shown = io.StringIO()
    again = open_set(file, tokenizer, terminal=Terminal(shown))
    assert f"{path} has other contents than were written: it is made again" in shown.getvalue()
    assert [side.tolist() for side in conversations(again, found[0][0])] == expected[found[0][0]]


def test_without_a_reader_a_large_cache_is_opened_as_it_is(file: str, tokenizer: Any) -> None:
    path = middle(open_set(file, tokenizer))
    changed = path.read_bytes()
    conversations(open_set(file, tokenizer), 0)
    assert path.read_bytes() == changed


@pytest.mark.parametrize("at", [0, 500, -1, -10, -700])
def test_the_ends_of_a_large_file_are_read_at_the_start(file: str, tokenizer: Any, at: int) -> None:
    (source,) = open_set(file, tokenizer).sources
    path = source.folder / "pairs.arrow"
    whole = path.read_bytes()
    turn(path, at % len(whole))
    open_set(file, tokenizer)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "read",
    [
        lambda column, at: column[at],
        lambda column, at: column[at - len(column)],
        lambda column, at: column[at : at + 1],
        lambda column, at: column[at:],
        lambda column, at: column[::-1],
        lambda column, at: column[at:0:-7],
        lambda column, at: column[np.arange(len(column)) == at],
        lambda column, at: column[np.array([at - len(column)])],
        lambda column, at: column[np.array([[0, at]])],
        lambda column, at: np.asarray(column),
        lambda column, at: np.add.reduce(column),
    ],
)
def test_every_way_to_read_a_column_checks_it(
    file: str, tokenizer: Any, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_END_BLOCKS", 1)
    (source,) = open_set(file, tokenizer).sources
    values = source.sides["hash"][:].copy()
    at = len(values) // 2
    place = (source.folder / "sides.arrow").read_bytes().index(values[at].tobytes())
    turn(source.folder / "sides.arrow", place)
    (source,) = open_set(file, tokenizer).sources
    column: Column = source.sides["hash"]
    assert column[0] == values[0]
    with pytest.raises(UserError, match=r"sides\.arrow has other contents"):
        read(column, at)
    with pytest.raises(UserError):  # again, and not only once
        read(column, at)


def test_what_is_read_is_what_an_array_gives(file: str, tokenizer: Any) -> None:
    (source,) = open_set(file, tokenizer).sources
    column = source.columns["row"]
    array = np.arange(NUM_PAIRS)
    some = np.random.default_rng(1).integers(0, NUM_PAIRS, (5, 7))
    slices = (
        slice(None),
        slice(5, 2),
        slice(-10, None),
        slice(NUM_PAIRS, None),
        slice(None, None, -3),
        slice(-1, 5, -1),
    )
    for at in (*slices, some, some - NUM_PAIRS, array % 7 == 0, -1, np.int64(3), some[:0], [3, 1]):
        assert np.array_equal(column[at], array[at])
    assert np.array(column).tolist() == array.tolist()
    assert np.searchsorted(column, 77) == 77


def test_the_end_of_a_file_is_read_at_the_start_whatever_its_length(file: str, tokenizer: Any) -> None:
    """Arrow's footer of some hundred bytes may begin in the block before the last."""
    (source,) = open_set(file, tokenizer).sources
    path = source.folder / "pairs.arrow"
    num_bytes = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(BLOCK_BYTES - num_bytes % BLOCK_BYTES + 30))  # thirty in a last block
    sums.write_sums(source.folder, *FILES)
    assert sums.damage(source.folder, *FILES) is None
    turn(path, path.stat().st_size - 200)
    assert sums.damage(source.folder, *FILES) == f"{path} has other contents than were written"


def test_a_cache_that_was_made_again_meanwhile_stays(file: str, tokenizer: Any) -> None:
    (source,) = open_set(file, tokenizer).sources
    path = source.folder / "tokens.arrow"
    whole = path.read_bytes()
    path.unlink()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 4
    path.write_bytes(changed)
    (old,) = open_set(file, tokenizer).sources
    path.unlink()
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"tokens\.arrow has other contents.*Start again"):
        old.tokens[:]
    assert sums.damage(source.folder, *FILES) is None


def test_where_nothing_can_be_noted_the_folder_is_to_be_deleted(file: str, tokenizer: Any) -> None:
    (source,) = open_set(file, tokenizer).sources
    (old,) = open_set(file, tokenizer).sources
    middle(open_set(file, tokenizer))
    (source.folder / "sums.json").unlink()
    with pytest.raises(UserError, match=rf"Delete {source.folder} and start again\."):
        old.tokens[:]

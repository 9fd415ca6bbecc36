"""Data set classes of one's own: both examples that are shipped, and what is said about others."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nemo_bt.errors import UserError
from tests.support.preferences import messages
from tests.support.runs import REPO
from tests.support.sources import conversations, dropped, open_set, texts, write

EXAMPLES = REPO / "conf" / "data_class"


def custom(path: Path, name: str, **options: Any) -> dict[str, Any]:
    return {"custom_cls": {"path": str(path), "name": name, "options": options}}


def test_a_class_that_yields_messages(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"question": f"q {i}", "answers": {"poor": 1, "good": 5, "fair": 2}} for i in range(3)]
    file = write(tmp_path / "votes.txt", rows)
    pairs = open_set(file, tokenizer, **custom(EXAMPLES / "message_pairs.py", "MessagePairs"))
    assert texts(pairs, tokenizer)[2] == tuple(
        f"<|bos|>user: q 2<|end|>assistant: {answer}<|end|>" for answer in ("good", "poor")
    )
    assert pairs.groups([0])[0].comparisons[0].margin == 4
    assert pairs.where(1).endswith("row 1")


def test_a_class_that_gives_token_ids_is_the_same_as_reading_the_file(dataset: Path, tokenizer: Any) -> None:
    file = str(dataset / "random.parquet")
    ours = open_set(file, tokenizer)
    theirs = open_set(file, tokenizer, **custom(EXAMPLES / "token_pairs.py", "TokenPairs"))
    for pair in range(len(pq.read_table(file))):
        for a, b in zip(conversations(ours, pair), conversations(theirs, pair), strict=True):
            assert a.tolist() == b.tolist()
    assert theirs.sources[0].format == "ids"


ITEMS = """
import numpy as np
from collections.abc import Iterator

class Base:
    def __init__(self, parquet_files, tokenizer, config):
        self.tokenizer, self.config = tokenizer, config
    def __len__(self):
        return 3

class Texts(Base):
    def __getitem__(self, i):
        return ("tea " * (i + 2), "milk")

class LeftPadded(Base):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        bos, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = [0, 0, bos, 5 + i, self.config.last, end]
        other = [0, bos, 5 + i, 7, 8, end]
        if i == 2:
            other = other[:-1]
        as_arrays = lambda ids: (np.array(ids), np.array([int(t != 0) for t in ids]))
        (j, mj), (k, mk) = as_arrays(ids), as_arrays(other)
        if i == 3:
            mk = mk[:-1]
        return dict(input_ids_j=j, attention_mask_j=mj, input_ids_k=k, attention_mask_k=mk)

class Once(Base):
    def __init__(self, **given):
        super().__init__(**given)
        self.left = iter(range(5))
    __len__ = None
    def __iter__(self):
        return self
    def __next__(self):
        i = next(self.left)
        return None if i in (2, 3) else {"chosen": f"c{i}", "rejected": "r", "margin": i}

class OddIds(Base):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        bos, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = [[bos, 5, end], [bos, 5.5, end], [bos, -3, end], [bos, 5, 6, 7, 8, 9, end]][i]
        return dict(input_ids_j=ids, attention_mask_j=[1] * len(ids), margin=0.5, weight=2.0,
                    input_ids_k=[bos, 9, end], attention_mask_k=[1] * 3)

class Wrong(Base):
    def __getitem__(self, i):
        return {"input_ids": [1], "labels": 5}

class Number(Base):
    def __getitem__(self, i):
        return 7

class Nothing(Base):
    def __len__(self):
        return 0
    def __getitem__(self, i):
        raise IndexError

class Raises(Base):
    def __getitem__(self, i):
        raise KeyError("no such column")

class OtherArguments:
    def __init__(self, path):
        pass
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "items.py").write_text(ITEMS)
    return tmp_path / "items.py"


def test_texts_as_tuples(tmp_path: Path, tokenizer: Any, module: Path) -> None:
    pairs = open_set(write(tmp_path / "f.jsonl", [{}]), tokenizer, **custom(module, "Texts"))
    assert texts(pairs, tokenizer)[0] == ("<|bos|>tea tea <|end|>", "<|bos|>milk<|end|>")


def test_padding_on_the_left_is_taken_off_and_guards_look_at_ids(tmp_path: Path, tokenizer: Any, module: Path) -> None:
    file = write(tmp_path / "f.jsonl", [{}])
    pairs = open_set(file, tokenizer, "model.data.max_bad_fraction=1", **custom(module, "LeftPadded", last=9))
    end, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    assert [ids.tolist() for ids in conversations(pairs, 0)] == [[bos, 5, 9, end], [bos, 5, 7, 8, end]]
    assert dropped(pairs) == {"terminal": 1, "type": 1}


def test_an_iterator_loses_no_item_and_items_that_are_nothing_are_counted(
    tmp_path: Path, tokenizer: Any, module: Path
) -> None:
    file = write(tmp_path / "f.jsonl", [{}])
    pairs = open_set(file, tokenizer, "model.data.max_bad_fraction=1", **custom(module, "Once"))
    assert [chosen for chosen, _ in texts(pairs, tokenizer)] == [f"<|bos|>c{i}<|end|>" for i in (0, 1, 4)]
    assert (dropped(pairs), pairs.column("row", range(3)).tolist()) == ({"type": 2}, [0, 1, 4])


def test_ids_have_to_be_ids_and_keep_to_the_length(tmp_path: Path, tokenizer: Any, module: Path) -> None:
    file, short = write(tmp_path / "f.jsonl", [{}]), "model.encoder_seq_length=5"
    limits = ("model.data.max_bad_fraction=1", "model.data.max_drop_fraction=1")
    pairs = open_set(file, tokenizer, short, *limits, **custom(module, "OddIds"))
    assert dropped(pairs) == {"type": 2, "long": 1}
    assert pairs.groups([0])[0].comparisons[0][2:5] == (0.5, 1.0, 2.0)
    with pytest.raises(UserError, match=r"item 3: 7 tokens, expected at most model\.encoder_seq_length=5"):
        open_set(file, tokenizer, short, "model.data.length_policy=error", *limits, **custom(module, "OddIds"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Wrong",
            r"items\.py:Wrong: its first item is a dict of input_ids: list, labels: int\. Expected a dict with chosen",
        ),
        (
            "Number",
            r"items\.py:Number: its first item is int '7'\. Expected a dict with chosen and rejected .*input_ids_j",
        ),
        ("Nothing", r"items\.py:Nothing: 0 items, expected at least one pair"),
        ("OtherArguments", r"items\.py:OtherArguments: .*argument.*Expected OtherArguments\(parquet_files="),
        ("Absent", r"model\.data\.custom_cls\.name: no class Absent in .*items\.py"),
    ],
)
def test_other_classes_are_told_what_they_returned(
    tmp_path: Path, tokenizer: Any, module: Path, name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_set(write(tmp_path / "f.jsonl", [{}]), tokenizer, **custom(module, name))


def test_a_file_that_is_no_module_is_named(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "f.jsonl", [{}])
    with pytest.raises(UserError, match=r"custom_cls\.path: expected a Python file with A, got /nowhere\.py"):
        open_set(file, tokenizer, **custom(Path("/nowhere.py"), "A"))
    with pytest.raises(UserError, match=r"custom_cls\.path: expected a Python file with A, got .*f\.jsonl"):
        open_set(file, tokenizer, **custom(Path(file), "A"))


def test_what_the_class_raises_is_left_as_it_is(tmp_path: Path, tokenizer: Any, module: Path) -> None:
    file = write(tmp_path / "f.jsonl", [{}])
    with pytest.raises(KeyError, match="no such column"):
        open_set(file, tokenizer, **custom(module, "Raises"))
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_like_this"):
        open_set(file, tokenizer, **custom(tmp_path / "broken.py", "A"))


def test_a_changed_class_makes_another_cache(tmp_path: Path, tokenizer: Any, module: Path) -> None:
    file = write(tmp_path / "f.jsonl", [{}])
    before = open_set(file, tokenizer, **custom(module, "Texts"))
    module.write_text(ITEMS.replace('"milk"', '"soup"'))
    after = open_set(file, tokenizer, **custom(module, "Texts"))
    assert before.sources[0].folder != after.sources[0].folder
    assert json.loads((after.sources[0].folder / "account.json").read_text())["format"] == "text"
    assert texts(after, tokenizer)[0][1] == "<|bos|>soup<|end|>"
    assert messages("a", "b")[0]["role"] == "user"

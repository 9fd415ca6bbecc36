"""Tokenizers and what they make of conversations; the preference set that the project writes itself."""

import copy
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.data.synthetic import THINGS, make_pairs
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError


def saved(tokenizer: Any, folder: Path, **changes: Any) -> str:
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


def test_synthetic_answers_cannot_be_told_without_the_prompt() -> None:
    train, validation = make_pairs(seed=0)
    for pairs in (train, validation):
        counts = {side: [pair[side][1]["content"] for pair in pairs] for side in ("chosen", "rejected")}
        for thing in THINGS:
            chosen, rejected = (sum(thing in answer for answer in counts[side]) for side in ("chosen", "rejected"))
            assert chosen == rejected > 0
        assert {len(answer.split()) for side in counts.values() for answer in side} == {3}
    prompts = [{pair["chosen"][0]["content"] for pair in pairs} for pairs in (train, validation)]
    assert [len(found) for found in prompts] == [108, 36]
    assert [len(train), len(validation)] == [1188, 396]
    assert not prompts[0] & prompts[1]

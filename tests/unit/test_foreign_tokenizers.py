"""A foreign tokenizer folder runs nothing, names no files elsewhere, and loads as transformers loads it."""

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from nemo_bt.data.tokenize.foreign_tokenizer import open_tokenizer
from nemo_bt.data.tokenize.tokenizer import copy_tokenizer, load_tokenizer
from nemo_bt.errors import UserError
from tests.support.traits import TRAITS, make

_OBJECTS = {"init_kwargs", "_tokenizer", "sp_model", "tokens_trie", "_processor_class", "__io__"}
"""Attributes without a text of their own, or of what is no tokenizer: ids and vocabulary are compared beside them."""


@pytest.fixture
def folder(dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(dataset / "tokenizer", tmp_path / "tokenizer")


def change(folder: Path, **fields: Any) -> None:
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def elsewhere(folder: Path) -> Path:
    """A tokenizer.json with one more token, in another folder."""
    content = json.loads((folder / "tokenizer.json").read_text())
    added = content["added_tokens"][-1] | {"id": 9999, "content": "<elsewhere>"}
    content["added_tokens"].append(added)
    file = folder.parent / "elsewhere" / "tokenizer.1.0.0.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("named", [{"tokenizer_class": "RagTokenizer"}, {"tokenizer_class": None}])
def test_a_class_that_loads_other_tokenizers_is_refused(
    folder: Path, named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would ask whether to run the code of the folder's parts, in words that come from them."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    change(folder, **named)
    parts = {"question_encoder": {"model_type": "vit"}, "generator": {"model_type": "vit"}}
    (folder / "config.json").write_text(json.dumps({"model_type": "rag", **parts}))
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Mine: pass\n")
    shutil.copyfile(folder / "mine.py", folder.parent / "mine.py")
    part = folder / "question_encoder_tokenizer"
    part.mkdir()
    shutil.copyfile(folder / "mine.py", part / "mine.py")
    code = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (part / "tokenizer_config.json").write_text(json.dumps(code))
    with pytest.raises(UserError, match="got RagTokenizer"):
        load_tokenizer(str(folder), None)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", ["AutoTokenizer", "AutoModel", "RagTokenizer", "SeamlessM4TTokenizerFast", "logging"])
def test_a_class_is_one_that_loads_as_all_do(folder: Path, name: str) -> None:
    change(folder, tokenizer_class=name)
    with pytest.raises(UserError, match=f"expected a class of transformers .*, got {name}"):
        load_tokenizer(str(folder), None)


def test_files_are_those_of_the_folder(folder: Path) -> None:
    other = elsewhere(folder)
    for name, value in (("tokenizer_file", str(other)), ("fast_tokenizer_files", [str(other)])):
        change(folder, **{name: value})
        with pytest.raises(UserError, match=f"{name}"):
            load_tokenizer(str(folder), None)
        change(folder, **{name: None})
    plain = load_tokenizer(str(folder), None)
    (folder / "special_tokens_map.json").write_text(json.dumps({"tokenizer_file": str(other)}))
    change(folder, added_tokens_decoder=None, init_inputs=[str(other)], name_or_path="org/name", use_fast=False)
    assert load_tokenizer(str(folder), None).get_vocab() == plain.get_vocab()
    shutil.copyfile(other, folder / other.name)
    change(folder, fast_tokenizer_files=[other.name])
    assert "<elsewhere>" in load_tokenizer(str(folder), None).get_vocab()


def test_a_link_leads_to_the_folder_or_to_the_blobs_of_its_repository(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (folder / "vocab.txt").symlink_to(secret)
    for read in (lambda: load_tokenizer(str(folder), None), lambda: copy_tokenizer(folder, tmp_path / "out")):
        with pytest.raises(UserError, match=r"vocab\.txt: expected a file of this folder, found a link to"):
            read()
    assert not (tmp_path / "out").exists()
    (folder / "vocab.txt").unlink()
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1a2b", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        shutil.copyfile(file, blobs / f"{file.name}-hash")
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}-hash")
    copy_tokenizer(snapshot, tmp_path / "out")
    assert load_tokenizer(str(tmp_path / "out"), None).get_vocab() == load_tokenizer(str(snapshot), None).get_vocab()
    (snapshot / "added_tokens.json").symlink_to(secret)
    with pytest.raises(UserError, match="found a link"):
        copy_tokenizer(snapshot, tmp_path / "out")


def test_what_tiktoken_reads_is_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By itself it keeps files under a hash of their path, in a folder that any user may have made."""
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path / "cache"))
    (folder / "tokenizer.json").unlink()
    change(folder, tokenizer_class="PreTrainedTokenizerFast", added_tokens_decoder=None)
    pieces = [bytes([number]) for number in range(256)]
    found = []
    for more in ([], [b"ab", b"abab"]):
        lines = [base64.b64encode(piece) + b" %d" % number for number, piece in enumerate(pieces + more)]
        (folder / "tokenizer.model").write_bytes(b"\n".join(lines))
        found.append(len(load_tokenizer(str(folder), None)("abab")["input_ids"]))
    assert found == [4, 1]
    assert not (tmp_path / "cache").exists()
    assert "TIKTOKEN_CACHE_DIR" not in os.environ


@pytest.mark.parametrize("trait", TRAITS)
def test_what_loads_is_what_transformers_loads(trait: str, tmp_path: Path) -> None:
    """In all attributes, those that name its files too."""
    folder = make(TRAITS[trait], tmp_path / "tokenizer")
    change(folder, legacy=True, sp_model_kwargs={"enable_sampling": False}, processor_class="X", extra=["x"])
    found, theirs = open_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert type(found) is type(theirs)
    assert (found._processor_class, theirs._processor_class) == (None, "X")  # no field of a tokenizer's own
    plain = [{key: str(value) for key, value in vars(one).items() if key not in _OBJECTS} for one in (found, theirs)]
    assert plain[0] == plain[1]
    text = "Was it 'so'?  naïve café 日本語 😀\n\n<s> x"
    assert found(text)["input_ids"] == theirs(text)["input_ids"]
    assert found.get_vocab() == theirs.get_vocab()
    found.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(text)["input_ids"] == theirs(text)["input_ids"]


@pytest.mark.parametrize("where", ["vocabulary", "added token", "vocab.json"])
def test_an_id_that_no_vocabulary_has_is_refused_before_memory_is_reserved_for_all_below(
    folder: Path, where: str
) -> None:
    file = folder / ("vocab.json" if where == "vocab.json" else "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    if where == "vocab.json":
        content = {"a": 0, "b": 2**31}
    elif where == "vocabulary":
        content["model"]["vocab"]["!"] = 2**31
    else:
        content["added_tokens"][-1]["id"] = 2**31
    file.write_text(json.dumps(content))
    if where == "vocab.json":
        change(folder, tokenizer_class="GPT2Tokenizer")
    with pytest.raises(UserError, match=rf"{file.name}: expected ids below 16,777,216, got 2,147,483,648 of "):
        load_tokenizer(str(folder), None)


def test_long_numbers_in_texts_are_no_ids(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"][":123456789,"] = max(content["model"]["vocab"].values()) + 1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert ":123456789," in load_tokenizer(str(folder), None).get_vocab()
